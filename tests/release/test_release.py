"""The wheel alone, in empty environments: it installs, works and is typed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.release, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
VERSIONS = ("3.11", "3.12", "3.13")
PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Outside the repository's import path, as a user runs it."""
    inherited = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    return subprocess.run(
        command, cwd=cwd, env={**inherited, **environment}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def succeed(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = run(*command, cwd=cwd, **environment)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel built from it."""
    folder = tmp_path_factory.mktemp("dist")
    succeed(TOOLS / "python", "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    [sdist], [wheel] = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def environment(folder: Path, wheel: Path, extra: str = "", version: str = "") -> Path:
    """The bin folder of a new virtual environment that holds the wheel and what it asks for."""
    python = shutil.which(f"python{version}") if version else sys.executable
    if python is None or run(python, "--version", cwd=folder).returncode != 0:
        pytest.skip(f"no Python {version} here")
    succeed(python, "-m", "venv", folder / "venv", cwd=folder)
    binaries = folder / "venv/bin"
    constraints = ROOT / "constraints.txt"
    succeed(binaries / "python", *PIP, "-c", constraints, f"{wheel}{extra}", cwd=folder)
    return binaries


def demo_model(binaries: Path) -> Path:
    program = "import unshard, pathlib; print(pathlib.Path(unshard.__file__).parent)"
    return Path(succeed(binaries / "python", "-c", program, cwd=binaries).strip()) / "demo_model"


def made_by_running(path: Path) -> bool:
    """Bytecode, native kernels, and what verify remembers."""
    return path.parent.name == "__pycache__" or path.suffix == ".so" or path.name[0] == "."


def test_both_hold_all_files_and_a_page_that_renders(built: tuple[Path, Path]) -> None:
    sdist, wheel = built
    succeed(TOOLS / "python", "-m", "twine", "check", "--strict", sdist, wheel, cwd=wheel.parent)
    source = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src/unshard").rglob("*")
        if path.is_file() and not made_by_running(path)
    }
    with zipfile.ZipFile(wheel) as archive:
        wheel_files = {name for name in archive.namelist() if name.startswith("unshard/")}
    assert wheel_files == source
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in wheel_files} <= names
    assert {"Makefile", "constraints.txt", "tests/conftest.py", "docs/glossary.md"} <= names


@pytest.mark.parametrize("version", VERSIONS)
def test_the_base_install_does_all_but_serving(
    built: tuple[Path, Path], tmp_path: Path, version: str
) -> None:
    binaries = environment(tmp_path, built[1], version=version)
    model = demo_model(binaries)

    def unshard(*arguments: str | Path) -> str:
        command = (binaries / "python", "-W", "error", "-m", "unshard", *arguments)
        return succeed(*command, cwd=tmp_path)

    assert json.loads(unshard("inspect", model, "--json"))
    assert "match" in unshard("verify", model, "--manifest", model / "md5sum_shards.csv")
    unshard("reshard", model, "exported", "--to", "safetensors")
    assert "identical" in unshard("diff", model, "exported")
    assert unshard("fingerprint", model) == unshard("fingerprint", "exported")
    for command in (("generate", model, "KING"), ("serve", model), ("score", model, "-")):
        refused = run(binaries / "unshard", *command, cwd=tmp_path)
        assert refused.returncode == 2
        assert "pip install 'unshard[serve]'" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_the_serving_extra_generates(built: tuple[Path, Path], tmp_path: Path) -> None:
    binaries = environment(tmp_path, built[1], extra="[serve]")
    model = demo_model(binaries)
    golden = json.loads((model / "golden.json").read_text())["cases"][0]
    asked = ("--temperature", "0", "--max-tokens", str(len(golden["greedy_ids"])))
    command = (binaries / "unshard", "generate", model, golden["prompt"], *asked)
    without = succeed(*command, cwd=tmp_path, UNSHARD_KERNELS="off")
    assert golden["greedy_text"].strip() in without
    if shutil.which("c++"):
        succeed(binaries / "python", "-m", "unshard.kernels", cwd=tmp_path)
        assert succeed(*command, cwd=tmp_path) == without


def test_a_users_file_is_checked(built: tuple[Path, Path], tmp_path: Path) -> None:
    binaries = environment(tmp_path, built[1])
    file = tmp_path / "using.py"
    shutil.copy(Path(__file__).with_name("using.py"), file)
    python = binaries / "python"
    succeed(TOOLS / "mypy", "--strict", "--python-executable", python, file, cwd=tmp_path)
    settings = tmp_path / "pyrightconfig.json"
    settings.write_text('{"typeCheckingMode": "strict"}')
    checker = TOOLS / "basedpyright"
    succeed(checker, "-p", settings, "--pythonpath", python, file, cwd=tmp_path)
    file.write_text("import unshard\nunshard.open(1)\nunshard.open('x').nothing\n")
    for check in (
        (TOOLS / "mypy", "--strict", "--python-executable", python, file),
        (checker, "-p", settings, "--pythonpath", python, file),
    ):
        assert run(*check, cwd=tmp_path).returncode == 1
