"""Compiling: what it says where it cannot, and that it is done once."""

import subprocess
import sys

import pytest

from unshard.errors import DestinationError, UsageError
from unshard.kernels import build


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A folder for what is built, with nothing in it."""
    monkeypatch.setattr(build, "_BUILT", tmp_path / "built")
    return tmp_path / "built"


def compiler(folder, script):
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_without_a_compiler(empty, tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"no C\+\+ compiler") as refused:
        build.build()
    assert "torch computes the same" in refused.value.hint


def test_a_compiler_that_is_not_there(empty, monkeypatch):
    monkeypatch.setenv("CXX", "/no/such/compiler")
    with pytest.raises(UsageError, match="/no/such/compiler"):
        build.build()


def test_a_compiler_that_fails_is_quoted(empty, tmp_path, monkeypatch):
    failing = compiler(tmp_path, "echo 'x.cpp:1: error: no such register' >&2; exit 1")
    monkeypatch.setenv("CXX", failing)
    with pytest.raises(UsageError, match="no such register"):
        build.build()
    assert not list(empty.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(build, "_BUILT", tmp_path / "file" / "built")
    monkeypatch.setenv("CXX", compiler(tmp_path, "exit 0"))
    with pytest.raises(DestinationError, match="cannot be written"):
        build.build()


def test_stale_builds_are_removed_and_the_right_one_is_kept(empty, tmp_path, monkeypatch):
    touches = 'while [ "$1" != -o ]; do shift; done; echo built > "$2"'
    monkeypatch.setenv("CXX", compiler(tmp_path, touches))
    empty.mkdir()
    (empty / "kernels-x86_64-0000000000000000.so").touch()
    built = build.build()
    assert [path.name for path in empty.iterdir()] == [built.name]
    monkeypatch.setenv("CXX", "/no/such/compiler")
    assert build.build() == built


@pytest.mark.slow
def test_they_compile_without_a_warning(compiled, empty, monkeypatch):
    monkeypatch.setattr(build, "_FLAGS", (*build._FLAGS, "-Wall", "-Wextra", "-Werror"))
    assert build.build().stat().st_size > 100_000


@pytest.mark.slow
def test_the_command_names_the_library(compiled):
    done = subprocess.run(
        [sys.executable, "-m", "unshard.kernels"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(build.library_path())
