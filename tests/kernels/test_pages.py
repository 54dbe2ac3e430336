"""Advice about pages never changes what they hold."""

import pytest
import torch

from unshard.kernels import pages
from unshard.kernels.pages import use_large_pages


@pytest.mark.parametrize("size", [0, 1, 4096, 5_000_001])
def test_values_stay(size):
    tensor = torch.arange(size) % 251
    use_large_pages(tensor)
    assert torch.equal(tensor, torch.arange(size) % 251)


def test_no_advice_where_there_is_none_to_give(monkeypatch):
    monkeypatch.delattr(pages.mmap, "MADV_HUGEPAGE")
    use_large_pages(torch.zeros(5_000_000))
