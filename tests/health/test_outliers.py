"""The rule tells corruption from heavy tails, outlier features and odd layers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from unshard.dtypes import FLOAT16
from unshard.health.float_formats import FORMATS
from unshard.health.histogram import BitHistogram
from unshard.health.outliers import Limits, limits_of
from unshard.health.statistics import TensorStatistics, summarize
from unshard.tensors import LogicalTensor, Shape

Make = Callable[[np.random.Generator, Shape], np.ndarray]
MATRIX, VECTOR = (192, 192), (256,)


def statistics_of(name: str, values: np.ndarray) -> TensorStatistics:
    bits = values.astype(np.float16).reshape(-1).view("<u2")
    histogram = BitHistogram(FORMATS[FLOAT16])
    histogram.add(bits, bits & np.uint16(0x7FFF))
    return summarize(LogicalTensor(name, FLOAT16, values.shape, ()), histogram)


def gaussian(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return rng.normal(0, 0.02, shape)


def student(freedom: float) -> Make:
    return lambda rng, shape: rng.standard_t(freedom, shape) * 0.02


def laplace(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return rng.laplace(0, 0.02, shape)


def sparse(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return rng.normal(0, 0.02, shape) * (rng.random(shape) < 0.02)


def mixed_rows(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """A few input dimensions of a matrix are large, as outlier features make them."""
    scale = np.where(np.arange(shape[-1]) < 2, 20.0, 1.0)
    return rng.normal(0, 0.02, shape) * scale


def norm_weight(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Near 1, but for the model's outlier features."""
    values = rng.normal(1, 0.05, shape)
    values[:3] *= rng.uniform(3, 20)
    return values


def bias(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    values = rng.normal(0, 0.01, shape)
    values[:3] += rng.uniform(-5, 5, 3)
    return values


def constant(_rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return np.ones(shape)


def zeros(_rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return np.zeros(shape)


HEALTHY: list[tuple[str, Make, Shape]] = [
    ("gaussian", gaussian, MATRIX),
    ("t5", student(5), MATRIX),
    ("t4", student(4), MATRIX),
    ("t3", student(3), MATRIX),
    ("laplace", laplace, MATRIX),
    ("sparse", sparse, MATRIX),
    ("outlier features", mixed_rows, MATRIX),
    ("norm", norm_weight, VECTOR),
    ("bias", bias, VECTOR),
    ("t4 vector", student(4), VECTOR),
    ("ones", constant, VECTOR),
    ("zeros", zeros, VECTOR),
    ("tiny", gaussian, (5, 3)),
]


@pytest.mark.parametrize("num_layers", [1, 3, 12])
@pytest.mark.parametrize(
    ("make", "shape"), [row[1:] for row in HEALTHY], ids=[r[0] for r in HEALTHY]
)
def test_no_false_alarm(make: Make, shape: Shape, num_layers: int) -> None:
    rng = np.random.default_rng(7)
    for _ in range(4):
        tensors = {
            f"decoder.layers.{layer}.w": statistics_of(
                f"decoder.layers.{layer}.w", make(rng, shape)
            )
            for layer in range(num_layers)
        }
        for name, limits in limits_of(tensors).items():
            assert tensors[name].absmax <= limits.high
            assert tensors[name].absmax <= limits.unusual


def limits_in_a_model(make: Make, shape: Shape) -> tuple[TensorStatistics, Limits]:
    """Of layer 2 of 8."""
    rng = np.random.default_rng(3)
    names = [f"decoder.layers.{layer}.w" for layer in range(8)]
    tensors = {name: statistics_of(name, make(rng, shape)) for name in names}
    return tensors[names[2]], limits_of(tensors)[names[2]]


def test_what_a_flipped_high_exponent_bit_makes_is_beyond() -> None:
    """0.02 becomes 1300 when the highest exponent bit of fp16 flips."""
    flipped = np.array([0.02], np.float16).view("<u2") ^ np.uint16(0x4000)
    value = abs(float(flipped.view(np.float16)[0]))
    for make, shape in ((gaussian, MATRIX), (student(4), MATRIX), (bias, VECTOR)):
        assert value > limits_in_a_model(make, shape)[1].high


def test_a_few_corrupt_values_do_not_hide_themselves() -> None:
    rng = np.random.default_rng(5)
    values = gaussian(rng, MATRIX)
    _, clean = limits_in_a_model(gaussian, MATRIX)
    values.reshape(-1)[:18] = 1000.0
    limits = limits_of({"decoder.embed_tokens.weight": statistics_of("w", values)})
    assert limits["decoder.embed_tokens.weight"].high < 10
    assert clean.high < 10


def test_a_layer_far_from_its_neighbours_is_unusual_and_not_corrupt() -> None:
    rng = np.random.default_rng(1)
    names = [f"decoder.layers.{layer}.fc2.bias" for layer in range(8)]
    tensors = {
        name: statistics_of(name, gaussian(rng, VECTOR) * (100 if number == 3 else 1))
        for number, name in enumerate(names)
    }
    limits = limits_of(tensors)
    assert [n for n in names if tensors[n].absmax > limits[n].unusual] == [names[3]]
    assert tensors[names[3]].absmax <= limits[names[3]].high
