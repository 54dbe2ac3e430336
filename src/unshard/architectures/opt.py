"""What is known of the OPT family: its sizes and its one table of tensors.

Canonical tensor names are metaseq's, with the attention projections apart (`k_proj`,
`v_proj`, `q_proj`): a fused `qkv_proj` is a way to store three logical tensors, not a
tensor of the model. Source: metaseq's transformer decoder; docs of OPT (arXiv:2205.01068).
"""

from __future__ import annotations

from dataclasses import dataclass

BOS_TOKEN_ID = 2
"""`</s>` goes in front of every prompt; OPT never saw `<s>`."""
PAD_TOKEN_ID = 1
EOS_TOKEN_ID = 2
POSITION_OFFSET = 2
"""Position p (0-based) uses row p + 2 of `embed_positions`."""


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

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads
