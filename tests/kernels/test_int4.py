"""4-bit weights: each value is the nearest of its group's sixteen, whoever multiplies them."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from unshard.kernels import int4
from unshard.library.precisions import int4_group

CPU = torch.device("cpu")


def filled(values, *, cut=1 << 30, packed=True):
    group = int4_group(values.shape[1])
    numbers = torch.empty(int4.shape(*values.shape), dtype=torch.uint8)
    scales = torch.empty(int4.scales_shape(*values.shape, group), dtype=torch.bfloat16)
    weight = int4.empty(numbers, scales, len(values))
    for first in range(0, len(values), cut):
        int4.put(weight, first, values[first : first + cut])
    if packed:
        int4.pack(weight, CPU)
    return weight


def value_of(weight):
    return torch.cat(list(int4.values(weight, torch.float32)))[: weight.out_features]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("middle", [0.0, 0.5])
def test_each_value_is_half_a_step_away_at_most(dtype, middle):
    torch.manual_seed(0)
    values = (torch.randn(48, 256) * 0.1 + middle).to(dtype)
    weight = filled(values, packed=False)
    groups = values.float().unflatten(1, (-1, 128))
    step = (groups.amax(2) - groups.amin(2)) / 15
    error = (value_of(weight) - values.float()).abs().unflatten(1, (-1, 128)).amax(2)
    # Scales and centres, and here the values, are rounded to 8 bits.
    assert (error <= step * 0.54 + abs(values).max() * 2**-8).all()
    assert (error > step * 0.4).any()


def test_the_ends_of_a_group_and_what_has_no_width():
    values = torch.zeros(16, 64)
    values[0] = torch.linspace(-1, 2, 64)
    values[1] = 0.75
    got = value_of(filled(values, packed=False))
    assert got[0, [0, -1]].tolist() == pytest.approx([-1, 2], abs=0.02)
    assert got[1].tolist() == [0.75] * 64
    assert got[2:].eq(0).all()


@pytest.mark.parametrize(("in_features", "group"), [(768, 128), (192, 64), (96, 32), (100, None)])
def test_the_group_divides_the_row(in_features, group):
    assert int4_group(in_features) == group


@pytest.mark.parametrize("shape", [(16, 32), (200, 96), (64, 128), (120, 64), (513, 256)])
def test_the_kernel_multiplies_the_values(shape):
    torch.manual_seed(0)
    out_features, in_features = shape
    values, bias = torch.randn(shape) / 8, torch.randn(out_features).bfloat16()
    packed, plain = filled(values), filled(values, packed=False)
    x = torch.randn(37, in_features).bfloat16()
    expected = x.double() @ value_of(plain).double().T + bias.double()
    for weight in (packed, plain):
        y = int4.linear(weight, bias, x)
        assert y.shape == expected.shape
        assert (y - expected).abs().max() < 0.02 * expected.std()
        assert torch.equal(int4.linear(weight, bias, x, relu=True), y.relu())
    nothing = int4.linear(packed, None, x) + bias
    assert torch.equal(nothing, int4.linear(packed, bias, x))


def test_what_is_not_packed_has_the_values_of_its_form():
    values = torch.randn(70, 96)
    got = value_of(filled(values, packed=False))
    assert torch.equal(got, int4.rounded_to_int4(values, 32))


def test_a_row_does_not_notice_the_others():
    torch.manual_seed(0)
    weight, x = filled(torch.randn(96, 256)), torch.randn(70, 256).bfloat16()
    together = int4.linear(weight, None, x)
    assert torch.equal(together, torch.cat([int4.linear(weight, None, row[None]) for row in x]))


def test_any_cut_of_the_rows_gives_the_same_weight(monkeypatch):
    values = torch.randn(200, 192)
    whole = filled(values)
    monkeypatch.setattr(int4, "_ELEMENTS_AT_ONCE", 1)  # 64 rows at a time are laid out
    for cut in (1, 7, 64, 199):
        pieces = filled(values, cut=cut)
        assert torch.equal(pieces.numbers, whole.numbers)
        assert torch.equal(pieces.scales, whole.scales)


def test_columns_of_whole_groups_are_the_whole_weights_columns():
    """So ranks that hold some columns each hold together what one holds."""
    values = torch.randn(32, 512)
    whole = value_of(filled(values, packed=False))
    halves = [value_of(filled(half, packed=False)) for half in values.chunk(2, 1)]
    assert torch.equal(torch.cat(halves, 1), whole)


@pytest.mark.parametrize("shape", [(16, 32), (208, 192), (512, 256)])
def test_a_gpus_kernel_is_given_the_shapes_that_it_takes(shape):
    """Where there is no GPU this is all that can be told: no number is computed."""
    out_features, in_features = shape
    group = int4_group(in_features)
    with FakeTensorMode():
        numbers = torch.empty(int4.shape(*shape), dtype=torch.uint8, device="cuda")
        scales = torch.empty(int4.scales_shape(*shape, group), dtype=torch.bfloat16, device="cuda")
        packed = int4._packed_for_cuda(numbers, group)
        assert packed.view(torch.uint8).view_as(numbers).device.type == "cuda"
        weight = int4.Int4Weight(numbers, scales, out_features, group, packed_for="cuda")
        y = int4._product(weight, torch.empty(3, in_features, dtype=torch.bfloat16, device="cuda"))
        assert (tuple(y.shape), y.dtype, y.device.type) == (
            (3, len(numbers)),
            torch.bfloat16,
            "cuda",
        )
