"""One thread of torch for tests whose matrices are small."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """More gain nothing there, and lose much where cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
