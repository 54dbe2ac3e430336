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
    steps: int = 1091
    decay_fraction: float = 0.3
    tokens_per_step: int = 2048
    short_window: int = 256
    muon_learning_rate: float = 0.02
    muon_momentum: float = 0.95
    adam_learning_rate: float = 2e-3
    final_rate_factor: float = 0.01
    warmup_steps: int = 40
    adam_betas: tuple[float, float] = (0.9, 0.97)
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    dropout: float = 0.0
    validation_interval: int = 200
    threads: int = 2

    def stable_steps(self) -> int:
        """Steps before the learning rate decays."""
        return round(self.steps * (1 - self.decay_fraction))

    def decay_steps(self, stable_steps: int) -> int:
        """Steps of decay that belong to so many steps before."""
        return round(stable_steps * self.decay_fraction / (1 - self.decay_fraction))


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
