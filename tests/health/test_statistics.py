"""Every number of a tensor's statistics against numpy on the values themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unshard.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, INT8, DType
from unshard.errors import UsageError
from unshard.health.float_formats import FORMATS, float_format
from unshard.health.histogram import BitHistogram
from unshard.health.statistics import TensorStatistics, summarize
from unshard.tensors import LogicalTensor


def statistics_of(bits: np.ndarray, dtype: DType, blocks: int = 1) -> TensorStatistics:
    form = FORMATS[dtype]
    histogram = BitHistogram(form)
    for block in np.array_split(bits.reshape(-1), blocks):
        if block.size:
            histogram.add(block, block & block.dtype.type(form.magnitude_mask))
    return summarize(LogicalTensor("w", dtype, bits.shape, ()), histogram)


def values_of(bits: np.ndarray, dtype: DType) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # signalling NaNs
        if dtype is BFLOAT16:
            return (bits.astype("<u4") << 16).view("<f4").astype(np.float64)
        return bits.view(dtype.numpy).astype(np.float64)


def patterns(dtype: DType) -> st.SearchStrategy[np.ndarray]:
    return arrays(FORMATS[dtype].raw, st.integers(1, 300))


SMALLEST_NORMAL = {FLOAT16: 2.0**-14, BFLOAT16: 2.0**-126, FLOAT32: 2.0**-126}


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16, FLOAT32], ids=lambda dtype: dtype.name)
@given(data=st.data(), blocks=st.integers(1, 4))
def test_counts_and_extremes_are_exact(dtype: DType, data: st.DataObject, blocks: int) -> None:
    bits = data.draw(patterns(dtype))
    values = values_of(bits, dtype)
    found = statistics_of(bits, dtype, blocks)
    finite = values[np.isfinite(values)]
    assert found.num_nan == np.isnan(values).sum()
    assert found.num_infinite == np.isinf(values).sum()
    assert found.num_zero == (values == 0).sum()
    assert found.num_subnormal == ((values != 0) & (abs(values) < SMALLEST_NORMAL[dtype])).sum()
    if finite.size:
        assert (found.minimum, found.maximum) == (finite.min(), finite.max())
        assert found.absmax == abs(finite).max()
    else:
        assert math.isnan(found.absmax)
    inside = [bar.negative + bar.positive for bar in found.histogram]
    assert abs(sum(inside) - (finite != 0).sum()) <= (dtype is FLOAT32) * found.num_subnormal


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=lambda dtype: dtype.name)
@given(data=st.data())
def test_sixteen_bits_give_exact_quantiles(dtype: DType, data: st.DataObject) -> None:
    bits = data.draw(patterns(dtype))
    values = values_of(bits, dtype)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return
    found = statistics_of(bits, dtype)
    expected = [float(np.quantile(finite, p, method="inverted_cdf")) for p, _ in found.quantiles]
    assert [value for _, value in found.quantiles] == expected
    assert found.median == np.quantile(finite, 0.5, method="inverted_cdf")
    assert found.mad == np.quantile(abs(finite - found.median), 0.5, method="inverted_cdf")
    scale = abs(finite).max() or 1.0
    assert found.mean / scale == pytest.approx(finite.mean() / scale, abs=1e-12)
    assert found.std == pytest.approx((finite / scale).std() * scale, rel=1e-6, abs=1e-9 * scale)


@pytest.mark.parametrize(("dtype", "relative"), [(FLOAT32, 2**-8), (FLOAT64, 2**-5)])
def test_wider_formats_are_close(dtype: DType, relative: float, rng: np.random.Generator) -> None:
    values = (rng.standard_normal(20_000) * 3e-2 + 0.01).astype(dtype.numpy)
    found = statistics_of(values.view(FORMATS[dtype].raw), dtype)
    assert (found.minimum, found.maximum) == (values.min(), values.max())
    assert found.std == pytest.approx(values.std(), rel=relative)
    assert found.mean == pytest.approx(values.mean(), abs=relative * float(values.std()))
    for p, value in found.quantiles:
        expected = np.quantile(values, p, method="inverted_cdf")
        assert value == pytest.approx(expected, rel=2 * relative)


def test_huge_fp64_does_not_overflow() -> None:
    found = statistics_of(np.array([1e308, -1e308, 0.0]).view("<u8"), FLOAT64)
    assert found.std == pytest.approx(math.sqrt(2 / 3) * 1e308, rel=0.05)


def test_bars_hold_what_their_edges_say(rng: np.random.Generator) -> None:
    stored = rng.standard_t(3, 10_000).astype(np.float16)
    values = stored.astype(np.float64)
    for bar in statistics_of(stored.view("<u2"), FLOAT16).histogram:
        low, high = 2 ** (bar.half_octave / 2), 2 ** ((bar.half_octave + 1) / 2)
        assert bar.positive == ((values >= low) & (values < high)).sum()
        assert bar.negative == ((-values >= low) & (-values < high)).sum()


def test_integers_are_refused() -> None:
    with pytest.raises(UsageError, match="w: is int8"):
        float_format("w", INT8)
