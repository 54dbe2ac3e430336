"""Laws of the 8-bit linear: exact sums, the same bits at every level and for every batch."""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unshard.kernels import int8
from unshard.kernels.library import kernels, levels

DTYPES = [torch.float32, torch.bfloat16]


def layer(out_features, in_features, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out_features, in_features, generator=generator)
    weight *= torch.rand(out_features, 1, generator=generator)
    return weight, torch.randn(out_features, generator=generator)


def rows(count, width, dtype=torch.float32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, width, generator=generator)
    x[0, 0] = 50  # an outlier, as OPT's activations have them
    return x.to(dtype)


def whole_numbers(x):
    """The rows' whole numbers and scales (rows, 1), in fp64: a byte holds four times the mean size
    of what is not 0."""
    x = x.double()
    finest = x.abs().amax(1, keepdim=True).clamp_min(1e-30) / 32639
    sizes = (x / finest).round().abs()
    mean = sizes.sum(1, keepdim=True) / (sizes != 0).sum(1, keepdim=True).clamp_min(1)
    scales = finest * (4 * mean / 127).clamp(1, 257)
    return (x / scales).round(), scales


def exact(x, weight, bias):
    """The layer with rounded rows and weights, in fp64."""
    numbers, scales = whole_numbers(x)
    return (numbers * scales) @ int8.rounded_to_int8(weight.double()).T + bias.double()


def relative_error(y, expected):
    return ((y.double() - expected).abs().amax() / expected.abs().amax()).item()


shapes = st.tuples(
    st.sampled_from([1, 2, 3, 4, 6, 7, 13, 300]),
    st.sampled_from([1, 63, 64, 65, 200]),
    st.sampled_from([1, 3, 4, 15, 16, 17, 66, 768]),
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(shape=shapes, relu=st.booleans(), dtype=st.sampled_from(DTYPES))
def test_it_is_the_layer_of_the_rounded_values(level, shape, relu, dtype):
    count, out_features, in_features = shape
    weight, bias = layer(out_features, in_features)
    x = rows(count, in_features, dtype)
    y = int8.linear(int8.pack(weight, bias), x, relu=relu)
    expected = exact(x, weight, bias)
    if relu:
        expected = expected.relu()
    assert y.dtype == dtype
    assert y.shape == (count, out_features)
    # fp32 may round a value at a tie to the other neighbour: one step of one activation.
    allowed = 2**-8 if dtype == torch.bfloat16 else 1e-2
    assert relative_error(y, expected) < allowed or expected.abs().amax() == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_level_gives_the_same_bits(compiled, switch, dtype):
    weight, bias = layer(200, 130)
    packed, x, found = int8.pack(weight, bias), rows(7, 130, dtype), []
    for name in levels():
        switch(name)
        found.append(int8.linear(packed, x))
    assert all(torch.equal(found[0], each) for each in found)


def test_a_row_does_not_notice_the_others(level):
    weight, bias = layer(130, 70)
    packed, x = int8.pack(weight, bias), rows(300, 70)
    together = int8.linear(packed, x)
    for number in (0, 1, 5, 191, 192, 255, 256, 299):
        alone = int8.linear(packed, x[number : number + 1])
        assert torch.equal(alone[0], together[number])


def test_threads_change_nothing(level):
    weight, bias = layer(400, 96)
    packed, x = int8.pack(weight, bias), rows(300, 96)
    alone = int8.linear(packed, x)
    torch.set_num_threads(3)
    try:
        assert torch.equal(int8.linear(packed, x), alone)
    finally:
        torch.set_num_threads(1)


def test_outliers_cost_the_others_no_precision(compiled):
    """As they would if they set the scale of their whole row in 8 bits."""
    weight, bias = layer(256, 1024)
    x = torch.randn(16, 1024, generator=torch.Generator().manual_seed(2))
    packed, rounded = int8.pack(weight, bias), int8.rounded_to_int8(weight).double()

    def error():
        return (int8.linear(packed, x) - (x.double() @ rounded.T + bias)).abs().mean()

    without = error()
    x[:, [3, 4, 77, 500, 501, 1023]] *= 60
    assert error() < 2 * without


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_do_not_overflow(level, sign):
    width = 65536
    packed = int8.pack(torch.full((1, width), 127.0), None)
    y = int8.linear(packed, torch.full((1, width), sign * 1.0))
    assert y.item() == pytest.approx(sign * 127 * width, rel=1e-6)


def test_wider_weights_are_left_to_torch():
    cpu = torch.device("cpu")
    assert int8.fits(65536, cpu)
    assert not int8.fits(65537, cpu)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("column", [0, 64, 65])
def test_what_is_no_number_is_not_hidden(level, value, column):
    weight, bias = layer(70, 66)
    x = rows(4, 66)
    x[2, column] = value
    y = int8.linear(int8.pack(weight, bias), x)
    assert y[2].isnan().all()
    assert y[[0, 1, 3]].isfinite().all()


def test_rows_and_weights_of_zeros(level):
    weight, bias = layer(70, 66)
    weight[5] = 0
    y = int8.linear(int8.pack(weight, bias), torch.zeros(3, 66))
    assert torch.equal(y, bias.expand(3, -1))
    assert torch.equal(int8.linear(int8.pack(weight, bias), rows(1, 66))[:, 5], bias[5:6])


def test_packing_keeps_every_number():
    weight, bias = layer(1100, 70)
    packed = int8.pack(weight, bias)
    numbers, scales = int8.quantize(weight)
    unpacked = packed.packed.transpose(1, 2).reshape(-1, 72).int() - 128
    assert torch.equal(unpacked[:1100, :70], numbers.int())
    assert not unpacked[1100:].any()
    assert not unpacked[:, 70:].any()
    assert torch.equal(packed.scales[:1100], scales)
    assert torch.equal(packed.bias[:1100], bias)
    assert numbers.abs().amax(1).eq(127).all()


def test_rounding_is_within_half_a_step():
    weight, _ = layer(2100, 40)
    steps = weight.abs().amax(1, keepdim=True) / 127
    assert ((int8.rounded_to_int8(weight) - weight).abs() <= steps * 0.5001).all()


@pytest.mark.skipif(kernels() is None, reason="the kernels are not compiled here: make kernels")
@pytest.mark.parametrize("shape", [(192, 66), (200, 129)])
def test_rows_put_in_any_pieces_give_the_bits_of_the_whole(shape):
    """Pieces cut the kernel's groups of 64 outputs, as K, V and Q of a small model do."""
    weight, bias = torch.randn(shape), torch.randn(shape[0])
    whole, pieces = int8.pack(weight, bias), int8.empty(*shape)
    borders = [0, 5, 64, 65, 150, shape[0]]
    for first, last in reversed(list(itertools.pairwise(borders))):
        int8.put(pieces, first, weight[first:last])
    int8.set_bias(pieces, bias)
    assert torch.equal(pieces.packed, whole.packed)
    assert torch.equal(pieces.scales, whole.scales)
    x = torch.randn(3, shape[1])
    assert torch.equal(int8.linear(pieces, x), int8.linear(whole, x))
