"""Where the suspicious values are: only blocks that hold one are read again."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from unshard.execute.blocks import Buffers
from unshard.execute.element_values import Bits
from unshard.execute.reader import Reader
from unshard.health.findings import MAX_PLACES, Finding, FindingKind, Place, Severity, place_of
from unshard.health.float_formats import FloatFormat
from unshard.health.outliers import Limits
from unshard.health.tensor_pass import TensorPass, block_bytes, elements_per_block, read_block
from unshard.progress import Progress
from unshard.tensors import Chunk


@dataclass(slots=True)
class _Places:
    """Elements of one kind: all counted, the first `MAX_PLACES` kept."""

    count: int = 0
    places: list[Place] = field(default_factory=list)

    def add(
        self, form: FloatFormat, chunk: Chunk, start: int, bits: Bits, chosen: npt.NDArray[np.bool_]
    ) -> None:
        elements = np.flatnonzero(chosen)
        self.count += elements.size
        kept = elements[: MAX_PLACES - len(self.places)]
        values = form.decode(bits[kept])
        self.places += [
            place_of(chunk, start + at, value)
            for at, value in zip(kept.tolist(), values.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class Suspect:
    """A tensor of which some blocks must be read again."""

    seen: TensorPass
    limits: Limits
    blocks: tuple[tuple[int, int], ...]
    """(chunk, block) of every block that holds NaN, Inf or too large a magnitude."""

    @property
    def num_bytes(self) -> int:
        refs = ((self.seen.tensor.chunks[chunk].ref, block) for chunk, block in self.blocks)
        return sum(block_bytes(ref, block) for ref, block in refs)


def suspect(seen: TensorPass, limits: Limits) -> Suspect:
    """Which blocks of a tensor are suspect; most often none."""
    _, high = limits.thresholds(seen.statistics.absmax)
    blocks = tuple(
        (chunk, block)
        for chunk, maxima in enumerate(seen.block_maxima)
        for block in np.flatnonzero(_is_bad(seen.form, maxima, high)).tolist()
    )
    return Suspect(seen, limits, blocks)


def _is_bad(form: FloatFormat, magnitudes: Bits, limit: float) -> npt.NDArray[np.bool_]:
    is_finite = magnitudes < form.infinity
    values = form.decode(np.where(is_finite, magnitudes, magnitudes.dtype.type(0)))
    return ~is_finite | (values > limit)


def look_again(found: Suspect, progress: Progress) -> list[Finding]:
    """Reads the suspect blocks of a tensor again and says what is in them."""
    nan, infinite, outliers = _Places(), _Places(), _Places()
    form, memory = found.seen.form, Buffers()
    low, _ = found.limits.thresholds(found.seen.statistics.absmax)
    with Reader() as reader:
        for number, block in found.blocks:
            chunk = found.seen.tensor.chunks[number]
            start = block * elements_per_block(chunk.ref)
            bits = read_block(chunk.ref, block, form.raw, reader, memory)
            magnitudes = bits & bits.dtype.type(form.magnitude_mask)
            nan.add(form, chunk, start, bits, magnitudes > form.infinity)
            infinite.add(form, chunk, start, bits, magnitudes == form.infinity)
            beyond = _is_bad(form, magnitudes, low) & (magnitudes < form.infinity)
            outliers.add(form, chunk, start, bits, beyond)
            progress.advance(bits.nbytes)
    findings = (
        _finding(found, "corrupt", "nan", nan, "NaN"),
        _finding(found, "corrupt", "infinite", infinite, "infinite"),
        _finding(found, *_outlier(found), outliers, f"beyond ±{low:.3g}, where {_usual(found)}"),
    )
    return [finding for finding in findings if finding.count]


def _outlier(found: Suspect) -> tuple[Severity, FindingKind]:
    is_corrupt = found.seen.statistics.absmax > found.limits.high
    return "corrupt" if is_corrupt else "suspicious", "outlier"


def _usual(found: Suspect) -> str:
    bulk = f"99 % are within ±{found.seen.statistics.magnitude_99:.3g}"
    if found.limits.neighbours is None:
        return bulk
    return f"{bulk} and neighbouring layers reach ±{found.limits.neighbours:.3g}"


def _finding(
    found: Suspect, severity: Severity, kind: FindingKind, what: _Places, words: str
) -> Finding:
    verb = "value is" if what.count == 1 else "values are"
    return Finding(
        severity,
        kind,
        found.seen.tensor.name,
        f"{what.count:,} {verb} {words}",
        what.count,
        tuple(what.places),
    )
