"""What is known of the OPT family: its sizes and its one table of tensors.

Canonical tensor names are metaseq's, with the attention projections apart (`k_proj`,
`v_proj`, `q_proj`): a fused `qkv_proj` is a way to store three logical tensors, not a
tensor of the model. Source: metaseq's transformer decoder; docs of OPT (arXiv:2205.01068).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from unshard.placement import Placement, Replicate, Shard
from unshard.tensors import Shape

BOS_TOKEN_ID = 2
"""`</s>` goes in front of every prompt; OPT never saw `<s>`."""
PAD_TOKEN_ID = 1
EOS_TOKEN_ID = 2
POSITION_OFFSET = 2
"""Position p (0-based) uses row p + 2 of `embed_positions`."""

VERSION_BUFFER = "decoder.version"
"""A buffer, always 3, that metaseq's loaders insist on (metaseq#136: without it, the last
layer norm was silently not applied). It is no weight."""

EMBEDDING = "decoder.embed_tokens.weight"
OUTPUT_PROJECTION = "decoder.output_projection.weight"
"""Every OPT's output projection is its token embedding (tied); other models have their own."""

FUSED_ORDER = ("k_proj", "v_proj", "q_proj")
"""What a fused `qkv_proj` holds, in this order whatever its name says."""


@dataclass(frozen=True, slots=True)
class OPTConfig:
    """Shape of one OPT model. Counts only: no paths, no dtypes."""

    num_layers: int
    hidden_size: int
    num_heads: int
    ffn_dim: int
    vocab_size: int
    max_positions: int
    """Longest sequence in tokens, the leading `</s>` included."""
    embedding_size: int
    """Width of the token embedding; differs from `hidden_size` for OPT-350M only."""
    pre_norm: bool = True
    """Layer norms before attention and FFN; OPT-350M has them after, and no last norm."""
    tied_embeddings: bool = True
    activation: str = "relu"

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads


def weight_names(names: Iterable[str]) -> list[str]:
    """What was trained: every tensor but the version buffer."""
    return [name for name in names if name != VERSION_BUFFER]


@dataclass(frozen=True, slots=True)
class TensorRule:
    """One row of the table: a tensor's whole shape, its placement, its Hugging Face name."""

    name: str
    shape: Shape
    placement: Placement
    hugging_face_name: str | None
    """None for what Hugging Face's OPT does not store."""


ROWS, COLUMNS, WHOLE = Shard(0), Shard(1), Replicate()
"""Megatron's column-parallel linears split the rows of their weight, and the other way round."""


def tensor_rules(config: OPTConfig) -> dict[str, TensorRule]:
    """Every tensor that a model of this shape has, by canonical name, in metaseq's order."""
    rows = [*_root_rows(config)]
    for layer in range(config.num_layers):
        for name, shape, placement in _layer_rows(config):
            name = f"layers.{layer}.{name}"
            rows.append((name, shape, placement, name))
    rules = {
        f"decoder.{name}": TensorRule(
            f"decoder.{name}", shape, placement, theirs and f"model.decoder.{theirs}"
        )
        for name, shape, placement, theirs in rows
    }
    if not config.tied_embeddings:
        shape = (config.vocab_size, config.embedding_size)
        rules[OUTPUT_PROJECTION] = TensorRule(OUTPUT_PROJECTION, shape, ROWS, "lm_head.weight")
    return rules


_Row = tuple[str, Shape, Placement, str | None]


def _root_rows(config: OPTConfig) -> Iterator[_Row]:
    hidden, narrow = config.hidden_size, config.embedding_size
    positions = (config.max_positions + POSITION_OFFSET, hidden)
    yield "embed_tokens.weight", (config.vocab_size, narrow), ROWS, "embed_tokens.weight"
    if narrow != hidden:
        yield "project_in_dim.weight", (hidden, narrow), WHOLE, "project_in.weight"
    yield "embed_positions.weight", positions, WHOLE, "embed_positions.weight"
    if config.pre_norm:
        yield "layer_norm.weight", (hidden,), WHOLE, "final_layer_norm.weight"
        yield "layer_norm.bias", (hidden,), WHOLE, "final_layer_norm.bias"
    if narrow != hidden:
        yield "project_out_dim.weight", (narrow, hidden), WHOLE, "project_out.weight"
    yield "version", (1,), WHOLE, None


def _layer_rows(config: OPTConfig) -> Iterator[tuple[str, Shape, Placement]]:
    hidden, ffn = config.hidden_size, config.ffn_dim
    for projection in FUSED_ORDER:
        yield f"self_attn.{projection}.weight", (hidden, hidden), ROWS
        yield f"self_attn.{projection}.bias", (hidden,), ROWS
    yield "self_attn.out_proj.weight", (hidden, hidden), COLUMNS
    yield "self_attn.out_proj.bias", (hidden,), WHOLE
    yield "self_attn_layer_norm.weight", (hidden,), WHOLE
    yield "self_attn_layer_norm.bias", (hidden,), WHOLE
    yield "fc1.weight", (ffn, hidden), ROWS
    yield "fc1.bias", (ffn,), ROWS
    yield "fc2.weight", (hidden, ffn), COLUMNS
    yield "fc2.bias", (hidden,), WHOLE
    yield "final_layer_norm.weight", (hidden,), WHOLE
    yield "final_layer_norm.bias", (hidden,), WHOLE


def _published(num_layers: int, hidden_size: int, num_heads: int) -> OPTConfig:
    return OPTConfig(
        num_layers, hidden_size, num_heads, ffn_dim=4 * hidden_size, vocab_size=50272,
        max_positions=2048, embedding_size=hidden_size,
    )  # fmt: skip


KNOWN_MODELS: Mapping[str, OPTConfig] = {
    "OPT-125M": _published(12, 768, 12),
    "OPT-350M": replace(_published(24, 1024, 16), embedding_size=512, pre_norm=False),
    "OPT-1.3B": _published(24, 2048, 32),
    "OPT-2.7B": _published(32, 2560, 32),
    "OPT-6.7B": _published(32, 4096, 32),
    "OPT-13B": _published(40, 5120, 40),
    "OPT-30B": _published(48, 7168, 56),
    "OPT-66B": _published(64, 9216, 72),
    "OPT-175B": _published(96, 12288, 96),
}
"""The published models, for checkpoints whose files leave out what shapes cannot say.
OPT-IML has the same shapes."""


def known_model(num_layers: int, hidden_size: int) -> tuple[str, OPTConfig] | None:
    """The published model of that depth and width; no two share them."""
    for name, config in KNOWN_MODELS.items():
        if (config.num_layers, config.hidden_size) == (num_layers, hidden_size):
            return name, config
    return None
