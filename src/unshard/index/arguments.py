"""What a trainer's arguments say of the model: `cfg.model`, or `args` of older files.

Arguments are told, tensors are there: shapes come first. What shapes cannot say, the heads
above all, is taken from here; what both say must agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from unshard.errors import CheckpointError
from unshard.formats.records import as_mapping, as_scalar

MISSING = "???"
"""OmegaConf's mark of a value that was never given."""

UNSUPPORTED = (
    ("no_scale_embedding", False, "that embeddings are scaled"),
    ("disable_bias", True, "that linear layers have no biases"),
    ("disable_affine_ln", True, "that layer norms have no weights"),
    ("no_decoder_final_norm", True, "that there is no last layer norm"),
)
"""Arguments that make another model than any OPT: field, value, what it means."""


@dataclass(frozen=True, slots=True)
class ModelArguments:
    """The model as its trainer was told to build it; None where nothing is said."""

    num_layers: int | None = None
    hidden_size: int | None = None
    num_heads: int | None = None
    ffn_dim: int | None = None
    embedding_size: int | None = None
    max_positions: int | None = None
    pre_norm: bool | None = None
    tied_embeddings: bool | None = None
    activation: str | None = None
    arch: str | None = None

    @property
    def fused_qkv(self) -> bool | None:
        """Whether K, V and Q are one tensor: only the model-parallel architectures fuse."""
        if self.arch is None or not self.arch.startswith("transformer_lm"):
            return None
        return "megatron" in self.arch


FIELDS = {
    "num_layers": "decoder_layers",
    "hidden_size": "decoder_embed_dim",
    "num_heads": "decoder_attention_heads",
    "ffn_dim": "decoder_ffn_embed_dim",
    "embedding_size": "decoder_input_dim",
    "max_positions": "max_target_positions",
    "pre_norm": "decoder_normalize_before",
    "tied_embeddings": "share_decoder_input_output_embed",
    "activation": "activation_fn",
    "arch": "arch",
}
"""Their names in metaseq."""


def read_arguments(path: str, entries: Mapping[str, Any]) -> ModelArguments:
    """The arguments in the top level of the file at `path`; all None where it has none.

    Raises:
        CheckpointError: an argument is of a wrong type, or asks for a model that is no OPT.
    """
    said = _Said(path, _model_arguments(entries))
    for field, value, meaning in UNSUPPORTED:
        if said.value(field) is value:
            raise CheckpointError(
                f"{path}: cfg says {meaning} ({field} is {value}), which no OPT model's are"
            )
    positions = said.count("max_target_positions")
    return ModelArguments(
        num_layers=said.count("decoder_layers"),
        hidden_size=said.count("decoder_embed_dim"),
        num_heads=said.count("decoder_attention_heads"),
        ffn_dim=said.count("decoder_ffn_embed_dim"),
        embedding_size=said.count("decoder_input_dim"),
        max_positions=said.count("tokens_per_sample") if positions is None else positions,
        pre_norm=said.flag("decoder_normalize_before"),
        tied_embeddings=said.flag("share_decoder_input_output_embed"),
        activation=said.name("activation_fn"),
        arch=said.name("arch") or said.name("_name"),
    )


def _model_arguments(entries: Mapping[str, Any]) -> Mapping[str, Any]:
    cfg = as_mapping(entries.get("cfg"))
    model = as_mapping((cfg or {}).get("model"))
    return model or as_mapping(entries.get("args")) or {}


@dataclass(frozen=True, slots=True)
class _Said:
    """Typed access to arguments that anybody may have written."""

    path: str
    arguments: Mapping[str, Any]

    def value(self, field: str) -> object:
        value = as_scalar(self.arguments.get(field))
        return None if isinstance(value, str) and value == MISSING else value

    def count(self, field: str) -> int | None:
        value = self.value(field)
        if value is None or (type(value) is int and value > 0):
            return value
        said = value if type(value) is int else f"a {type(value).__name__}"
        raise CheckpointError(f"{self.path}: cfg says {said} for {field}, which is no count")

    def flag(self, field: str) -> bool | None:
        value = self.value(field)
        if value is None or isinstance(value, bool):
            return value
        raise CheckpointError(f"{self.path}: cfg's {field} is neither True nor False")

    def name(self, field: str) -> str | None:
        value = self.value(field)
        if value is None or isinstance(value, str):
            return value
        raise CheckpointError(f"{self.path}: cfg's {field} is no name")


def merge_arguments(
    first: ModelArguments, path: str, other: ModelArguments, other_path: str
) -> ModelArguments:
    """What two files of one checkpoint say together.

    Raises:
        CheckpointError: they contradict each other; the message names both files.
    """
    if first == other:
        return first
    merged = {}
    for field in fields(ModelArguments):
        one, two = getattr(first, field.name), getattr(other, field.name)
        if one is not None and two is not None and one != two:
            raise CheckpointError(
                f"{other_path}: cfg says {FIELDS[field.name]} is {two}, but {path} says {one}",
                hint="are these files of one checkpoint?",
            )
        merged[field.name] = two if one is None else one
    return replace(first, **merged)
