"""Every number that shapes the bundled model, in one place."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """The shape of an OPT network."""

    vocabulary_size: int = 1536
    layers: int = 4
    width: int = 256
    heads: int = 8
    ffn_width: int = 1024
    max_positions: int = 512
    position_offset: int = 2

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def position_rows(self) -> int:
        return self.max_positions + self.position_offset


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the four special tokens, as in OPT."""

    start: int = 0
    padding: int = 1
    end: int = 2
    unknown: int = 3

    def names(self) -> list[str]:
        return ["<s>", "<pad>", "</s>", "<unk>"]


@dataclass(frozen=True)
class Recipe:
    """How the model is trained."""

    seed: int = 1616
    steps: int = 3200
    long_window_fraction: float = 0.35
    tokens_per_step: int = 2048
    short_window: int = 256
    peak_learning_rate: float = 2.5e-3
    final_learning_rate: float = 2.5e-5
    warmup_steps: int = 150
    adam_betas: tuple[float, float] = (0.9, 0.97)
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    dropout: float = 0.05
    validations: int = 20
    threads: int = 2


@dataclass(frozen=True)
class Split:
    """Which passages are kept away from training (counted over the whole corpus)."""

    passage_characters: int = 4000
    cycle: int = 40
    heldout: tuple[int, ...] = (7, 27)
    validation: tuple[int, ...] = (17,)


@dataclass(frozen=True)
class ShardGrid:
    """How many files the raw checkpoint is cut into."""

    stem: str = "checkpoint_last"
    parts: int = 2
    shards: int = 5

    def file_name(self, part: int, shard: int) -> str:
        return f"{self.stem}-model_part-{part}-shard{shard}.pt"
