"""OPT's decoder, with metaseq's parameter names."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .settings import Architecture, SpecialTokens


class Attention(nn.Module):
    """Causal self-attention; the fused projection holds keys, values, queries in this order."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width = architecture.width
        self.heads = architecture.heads
        self.qkv_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        batch, length, width = hidden.shape
        fused = self.qkv_proj(hidden).view(batch, length, 3, self.heads, width // self.heads)
        key, value, query = fused.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        projected: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return projected


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, architecture: Architecture, dropout: float) -> None:
        super().__init__()
        width, ffn_width = architecture.width, architecture.ffn_width
        self.self_attn = Attention(architecture)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, ffn_width)
        self.fc2 = nn.Linear(ffn_width, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.dropout(self.self_attn(self.self_attn_layer_norm(hidden)))
        inner = functional.relu(self.fc1(self.final_layer_norm(hidden)))
        result: Tensor = hidden + self.dropout(self.fc2(inner))
        return result


class Decoder(nn.Module):
    """Embeddings, layers, the last norm, and logits through the tied embedding."""

    def __init__(self, architecture: Architecture, dropout: float) -> None:
        super().__init__()
        width, padding = architecture.width, SpecialTokens().padding
        self.offset = architecture.position_offset
        self.embed_tokens = nn.Embedding(architecture.vocabulary_size, width)
        self.embed_positions = nn.Embedding(architecture.position_rows, width, padding)
        self.layers = nn.ModuleList(
            Layer(architecture, dropout) for _ in range(architecture.layers)
        )
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        positions = torch.arange(ids.shape[1]) + self.offset
        hidden = self.embed_tokens(ids) + self.embed_positions(positions)
        for layer in self.layers:
            hidden = layer(hidden)
        return functional.linear(self.layer_norm(hidden), self.embed_tokens.weight)


class Network(nn.Module):
    """The language model: token ids in, logits out."""

    def __init__(self, architecture: Architecture, dropout: float = 0.0) -> None:
        super().__init__()
        self.decoder = Decoder(architecture, dropout)
        self._initialise(architecture.layers)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.decoder(ids)
        return logits

    def _initialise(self, layers: int) -> None:
        residual = 0.02 / math.sqrt(2 * layers)
        for name, parameter in self.named_parameters():
            if name.endswith(("out_proj.weight", "fc2.weight")):
                nn.init.normal_(parameter, std=residual)
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        with torch.no_grad():
            self.decoder.embed_positions.weight[SpecialTokens().padding].zero_()


def half_weights(network: Network) -> dict[str, Tensor]:
    """The weights rounded to fp16; all of them must stay finite."""
    weights = {name: value.detach().half() for name, value in network.state_dict().items()}
    broken = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if broken:
        raise ValueError(f"not finite in fp16: {broken}")
    return weights


def from_half(weights: dict[str, Tensor], architecture: Architecture) -> Network:
    """A network in fp32 that computes with exactly the given fp16 weights."""
    network = Network(architecture)
    network.load_state_dict({name: value.float() for name, value in weights.items()})
    return network.eval()
