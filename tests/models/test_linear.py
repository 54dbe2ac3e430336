"""A layer says the same whichever way multiplies it."""

import pytest
import torch

from unshard.kernels.library import SWITCH, levels
from unshard.models.linear import Linear


@pytest.mark.parametrize("how", [*levels(), "off"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stays", [False, True])
def test_few_rows_and_many(how, dtype, stays, monkeypatch):
    monkeypatch.setenv(SWITCH, how)
    torch.manual_seed(0)
    weight, bias = torch.randn(96, 64, dtype=dtype) / 8, torch.randn(96, dtype=dtype)
    linear = Linear(weight.clone(), bias)
    linear.stays = stays
    linear.pack()
    x = torch.randn(40, 64, dtype=dtype)
    expected = x.double() @ weight.double().T + bias.double()
    for rows in (1, 2, 5, 17, 33, 40):
        y, positive = linear(x[:rows]), linear.relu(x[:rows])
        tolerance = 0.03 if dtype == torch.bfloat16 else 1e-5
        assert (y - expected[:rows]).abs().max() < tolerance
        assert torch.equal(positive, y.relu())


def test_a_weight_that_stays_stays_readable():
    weight = torch.randn(96, 64)
    linear = Linear(weight)
    linear.stays = True
    linear.pack()
    assert linear.weight is weight
