"""Which library is loaded, and when none is."""

import shutil

import pytest

from unshard.errors import UsageError
from unshard.kernels import build
from unshard.kernels.library import _torch_threads, kernels, levels


@pytest.fixture(autouse=True)
def _forget():
    kernels.cache_clear()
    yield
    kernels.cache_clear()


@pytest.fixture
def own_sources(tmp_path, monkeypatch):
    """Copies of the sources and of what was built, free to be changed."""
    for name in ("_SOURCES", "_BUILT"):
        here = getattr(build, name)
        if here.exists():
            shutil.copytree(here, tmp_path / here.name)
        monkeypatch.setattr(build, name, tmp_path / here.name)
    return tmp_path / "native"


def test_the_best_level_is_chosen(compiled, switch):
    switch(None)
    assert kernels().level == levels()[0]
    assert levels()[-1] == "portable"


def test_off_is_off(switch):
    switch("off")
    assert kernels() is None


def test_an_unknown_level_is_refused(compiled, switch):
    switch("avx9000")
    with pytest.raises(UsageError, match="avx9000") as refused:
        kernels()
    assert "portable" in refused.value.hint


def test_a_stale_build_is_not_loaded(compiled, own_sources, switch):
    assert kernels() is not None
    switch(None)
    with (own_sources / "library.cpp").open("a") as source:
        source.write("\n")
    assert kernels() is None


def test_other_flags_are_another_build(monkeypatch):
    before = build.library_path()
    monkeypatch.setattr(build, "_FLAGS", (*build._FLAGS, "-g"))
    assert build.library_path() != before


def test_what_cannot_be_loaded_is_not_used(own_sources):
    build.library_path().parent.mkdir(exist_ok=True)
    build.library_path().unlink(missing_ok=True)
    build.library_path().write_bytes(b"no library")
    assert kernels() is None


def test_the_threads_are_those_of_torch():
    assert _torch_threads() is not None
