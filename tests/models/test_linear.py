"""A layer says the same whichever way multiplies it."""

import subprocess
import sys

import pytest
import torch

from unshard.kernels.library import levels
from unshard.models.linear import Linear, padded_rows


@pytest.mark.parametrize("how", [*levels(), "off"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stays", [False, True])
def test_few_rows_and_many(how, dtype, stays, switch):
    switch(how)
    torch.manual_seed(0)
    weight, bias = torch.randn(96, 64, dtype=dtype) / 8, torch.randn(96, dtype=dtype)
    linear = Linear(weight.clone(), bias)
    linear.stays = stays
    linear.pack()
    x = torch.randn(300, 64, dtype=dtype)
    expected = x.double() @ weight.double().T + bias.double()
    for rows in (1, 2, 5, 17, 33, 40, 300):
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


def test_rows_are_padded_a_little_and_to_few_counts():
    counts = [padded_rows(rows) for rows in range(1, 2049)]
    assert counts == sorted(counts)
    assert all(rows <= count for rows, count in enumerate(counts, 1))
    assert counts[:32] == list(range(1, 33))
    assert all(count - rows < max(16, rows / 8) for rows, count in enumerate(counts, 1))
    assert len(set(counts)) < 80
    assert padded_rows(0) == 0


GROWTH = """
import sys
import torch
from pathlib import Path
from unshard.models.linear import Linear

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

linears = [Linear(torch.randn(shape)) for shape in ((192, 64), (64, 64), (256, 64), (64, 256))]
for linear in linears:
    linear.pack()
for rows in range(1, 2049, 7):
    for linear in linears:
        linear(torch.randn(rows, linear.weight.shape[1]))
    if rows == 1:
        begun = resident_bytes()
print(resident_bytes() - begun)
"""


@pytest.mark.slow
def test_prompts_of_all_lengths_take_little_memory():
    """oneDNN keeps 0.7 MB for each count of rows and shape: 0.8 GB for these."""
    command = [sys.executable, "-c", GROWTH]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(told) < 256 << 20
