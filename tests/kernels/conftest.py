"""Every level that this processor runs; nothing to test where the kernels are not compiled."""

import pytest
from tests.one_thread import one_thread

from unshard.kernels.library import kernels, levels

__all__ = ["compiled", "level", "one_thread"]

NOT_COMPILED = "the kernels are not compiled here: make kernels"


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
