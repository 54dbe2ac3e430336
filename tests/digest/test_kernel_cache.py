"""The compiled kernel on disk: shared, unwritable, too large, or without its content."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import unshard

pytestmark = pytest.mark.slow
pytest.importorskip("numba", reason="the extra `fast`")

Hashing = subprocess.Popen[str]

PROGRAM = """
import json, sys
from pathlib import Path
from unshard.digest import files, has_lanes, hash_files

files.LANES_PAY_BYTES = files.LANES_PAY_FILES = 0
found = {p.name: md5 for p, md5 in hash_files(Path(sys.argv[1]).iterdir(), "md5", advance=id)}
from unshard.digest.md5_kernel import compress
print(json.dumps([has_lanes("md5"), sum(compress.stats.cache_hits.values()), found]))
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for i in range(5):
        (folder / str(i)).write_bytes(os.urandom(1000 * i))
    return folder


def start(folder: Path, cache: Path, *, program: str = PROGRAM, **environment: str) -> Hashing:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), **environment}
    command = [sys.executable, "-W", "error", "-c", program, str(folder)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def kernel_was_cached(hashing: Hashing, folder: Path) -> bool:
    """Once it has ended, with the right md5s by lanes and not a word on stderr."""
    out, err = hashing.communicate(timeout=100)
    assert (hashing.returncode, err) == (0, "")
    has_lanes, num_hits, found = json.loads(out)
    assert has_lanes
    assert found == {p.name: hashlib.md5(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    return num_hits > 0


def test_two_processes_compile_at_once_and_a_third_finds_it(files: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    both = [start(files, cache), start(files, cache)]
    assert [kernel_was_cached(hashing, files) for hashing in both] == [False, False]
    assert kernel_was_cached(start(files, cache), files)

    kept = [path for path in cache.rglob("*") if path.is_file()]
    assert kept
    for path in kept:
        os.truncate(path, 0)  # as after a loss of power
    assert not kernel_was_cached(start(files, cache), files)


def test_there_is_no_place_to_keep_it(files: Path, tmp_path: Path) -> None:
    """Permissions do not stop root: files lie where folders would have to be made."""
    package = Path(unshard.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__", "demo_model")
    shutil.copytree(package, tmp_path / "src/unshard", ignore=ignored)
    (tmp_path / "src/unshard/digest/__pycache__").touch()
    (tmp_path / "file").touch()
    nowhere = tmp_path / "file/cache"
    places = {"HOME": str(nowhere), "XDG_CACHE_HOME": str(nowhere)}
    hashing = start(files, nowhere, PYTHONPATH=str(tmp_path / "src"), **places)
    assert not kernel_was_cached(hashing, files)
    assert list(tmp_path.rglob("*.nb[ic]")) == []


def test_it_does_not_fit_on_the_disk(files: Path, tmp_path: Path) -> None:
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    hashing = start(files, tmp_path / "cache", program=limit + PROGRAM)
    assert not kernel_was_cached(hashing, files)
