"""Where the suspicious values are: only blocks that hold one are read again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from unshard.execute.blocks import Buffers
from unshard.execute.reader import Reader
from unshard.health.coordinates import place_of
from unshard.health.findings import MAX_PLACES, Finding, FindingKind, Place
from unshard.health.float_formats import Bits, FloatFormat
from unshard.health.outliers import Limits
from unshard.health.tensor_pass import TensorPass, elements_per_block, read_block
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


def suspect_blocks(seen: TensorPass, limits: Limits) -> list[tuple[int, int]]:
    """(chunk, block) of every block that holds NaN, Inf or a magnitude beyond `limits.high`."""
    return [
        (chunk, int(block))
        for chunk, maxima in enumerate(seen.block_maxima)
        for block in np.flatnonzero(_is_bad(seen.form, maxima, limits.high))
    ]


def _is_bad(form: FloatFormat, magnitudes: Bits, limit: float) -> npt.NDArray[np.bool_]:
    is_finite = magnitudes < form.infinity
    values = form.decode(np.where(is_finite, magnitudes, magnitudes.dtype.type(0)))
    return ~is_finite | (values > limit)


def look_again(seen: TensorPass, limits: Limits, progress: Progress) -> Iterator[Finding]:
    """Reads the suspect blocks of a tensor again and yields what is in them."""
    nan, infinite, outliers = _Places(), _Places(), _Places()
    form, memory = seen.form, Buffers()
    with Reader() as reader:
        for number, block in suspect_blocks(seen, limits):
            chunk = seen.tensor.chunks[number]
            start = block * elements_per_block(chunk.ref)
            bits = read_block(chunk.ref, block, form.raw, reader, memory)
            magnitudes = bits & bits.dtype.type(form.magnitude_mask)
            nan.add(form, chunk, start, bits, magnitudes > form.infinity)
            infinite.add(form, chunk, start, bits, magnitudes == form.infinity)
            beyond = _is_bad(form, magnitudes, limits.low) & (magnitudes < form.infinity)
            outliers.add(form, chunk, start, bits, beyond)
            progress.advance(bits.nbytes)
    yield from _findings(seen, limits, {"nan": nan, "infinite": infinite, "outlier": outliers})


def _findings(
    seen: TensorPass, limits: Limits, found: dict[FindingKind, _Places]
) -> Iterator[Finding]:
    words: dict[FindingKind, str] = {
        "nan": "NaN",
        "infinite": "infinite",
        "outlier": f"beyond ±{limits.low:.3g}, {_reason(seen, limits)}",
    }
    for kind, each in found.items():
        if each.count:
            verb = "value is" if each.count == 1 else "values are"
            yield Finding(
                "corrupt",
                kind,
                seen.tensor.name,
                f"{each.count:,} {verb} {words[kind]}",
                each.count,
                tuple(each.places),
            )


def _reason(seen: TensorPass, limits: Limits) -> str:
    bulk = f"99 % of its values are within ±{seen.statistics.magnitude_99:.3g}"
    if limits.neighbours is None:
        return bulk
    return f"{bulk} and neighbouring layers reach ±{limits.neighbours:.3g}"
