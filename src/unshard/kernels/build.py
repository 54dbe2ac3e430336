"""Compile the kernels with the system's C++ compiler: a few seconds, nothing but a compiler."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from unshard.errors import DestinationError, UsageError

_SOURCES = Path(__file__).with_name("native")
_BUILT = Path(__file__).with_name("built")

_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fwrapv", "-fno-math-errno", "-fvisibility=hidden")
_LEVELS: dict[str, tuple[str, ...]] = {"portable": ()}
if platform.machine() in {"x86_64", "AMD64"}:
    _AVX512 = tuple(f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "vnni"))
    _LEVELS |= {
        "avx2": ("-mavx2", "-mfma"),
        "avx512": _AVX512,
        "avx512bf16": (*_AVX512, "-mavx512bf16"),
    }
# Integer sums are rounded once, at the end: without contraction that is the same at every level.
_CONTRACTION = {
    "attention": "fast",
    "dense": "fast",
    "embedding": "off",
    "linear": "off",
    "norm": "off",
}


def library_path() -> Path:
    """Where the library compiled from the sources as they are now lies, or would lie.

    Its name has a hash of the sources and flags, so a stale build has another name.
    """
    digest = hashlib.sha256(repr(list(_units())).encode())
    for source in sorted(_SOURCES.iterdir()):
        digest.update(source.name.encode() + source.read_bytes())
    return _BUILT / f"kernels-{platform.machine()}-{digest.hexdigest()[:16]}.so"


def build() -> Path:
    """Compile the kernels unless the library of these sources is there; stale ones are removed.

    Returns:
        Path of the library.

    Raises:
        UsageError: there is no compiler, or it cannot compile them.
        DestinationError: the package's folder cannot be written.
    """
    library = library_path()
    if library.exists():
        return library
    compiler = _compiler()
    try:
        library.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            built = _compile(compiler, Path(folder))
            for stale in library.parent.glob("*.so"):
                stale.unlink()
            built.rename(library)
    except OSError as error:
        raise DestinationError(
            f"{library.parent}: cannot be written: {error.strerror}",
            hint="compile as the user who installed unshard",
        ) from error
    return library


def _compile(compiler: list[str], folder: Path) -> Path:
    units = list(_units())
    objects = [str(folder / f"{number}.o") for number in range(len(units))]
    commands = [
        [*compiler, *flags, "-c", str(_SOURCES / source), "-o", target]
        for (source, flags), target in zip(units, objects, strict=True)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_run, commands))
    library = folder / "kernels.so"
    _run([*compiler, "-shared", "-o", str(library), *objects])
    return library


def _units() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each source with its flags: those that compute once for each level."""
    for name in ("library", "meeting", "stack"):
        yield f"{name}.cpp", _FLAGS
    for level, flags in _LEVELS.items():
        for name, contraction in _CONTRACTION.items():
            yield (
                f"{name}.cpp",
                (*_FLAGS, f"-ffp-contract={contraction}", f"-DLEVEL={level}", *flags),
            )


def _compiler() -> list[str]:
    """$CXX, else the first C++ compiler on the path."""
    if command := os.environ.get("CXX"):
        return shlex.split(command)
    for name in ("c++", "g++", "clang++"):
        if found := shutil.which(name):
            return [found]
    raise UsageError(
        "there is no C++ compiler, and the kernels stay uncompiled",
        hint="install g++ (12 or newer) or clang++, or go on without: torch computes the same",
    )


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError as error:
        raise UsageError(f"{command[0]}: cannot be started: {error.strerror}") from error
    if done.returncode != 0:
        reason = next((line for line in done.stderr.splitlines() if "error" in line), "")
        raise UsageError(
            f"{command[0]} cannot compile the kernels: {reason or done.stderr[-200:].strip()}",
            hint="g++ 12 or newer compiles them; CXX names another compiler",
        )
