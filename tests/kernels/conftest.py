"""Every level that this processor runs; nothing to test where the kernels are not compiled."""

import pytest
import torch

from unshard.kernels.library import SWITCH, kernels, levels

NOT_COMPILED = "the kernels are not compiled here: make kernels"


@pytest.fixture
def switch(monkeypatch):
    """Sets what the environment says of kernels; None: nothing."""

    def to(wanted):
        if wanted is None:
            monkeypatch.delenv(SWITCH, raising=False)
        else:
            monkeypatch.setenv(SWITCH, wanted)
        kernels.cache_clear()

    yield to
    kernels.cache_clear()


@pytest.fixture(params=["avx512bf16", "avx512", "avx2", "portable"])
def level(request, switch):
    """The kernels at one level."""
    here = levels()
    if not here:
        pytest.skip(NOT_COMPILED)
    if request.param not in here:
        pytest.skip(f"this processor has no {request.param}")
    switch(request.param)
    return kernels()


@pytest.fixture
def compiled():
    """The kernels at the level that they choose themselves."""
    library = kernels()
    if library is None:
        pytest.skip(NOT_COMPILED)
    return library


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Small matrices: one thread is enough, and keeps its pace where cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
