"""docs/clients.md: every client that it shows gets its answer.

Those that are not installed here are looked for in the environment UNSHARD_CLIENTS, and skipped
without it: they bring a hundred packages.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The import mode of the suite leaves test folders off the path.
sys.path.insert(0, str(Path(__file__).parent))

from served_page import ADDRESS, DEMO_MODEL, ROOT, ask, blocks, commands, serving

from unshard.cli.main import main

PAGE = (ROOT / "docs/clients.md").read_text()
CLIENTS = Path(os.environ.get("UNSHARD_CLIENTS", "/nowhere")) / "bin"
SCRIPTS = blocks(PAGE, "python")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clients")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    [template] = blocks((ROOT / "docs/api.md").read_text(), "jinja")
    (folder / "chat.jinja").write_text(template)
    [serve] = commands(PAGE, "unshard")
    with serving(serve, folder) as url:
        yield url


def test_curl(url: str) -> None:
    [curl] = commands(PAGE, "curl")
    assert ask(curl, url)["choices"][0]["text"]


@pytest.mark.parametrize("script", SCRIPTS, ids=[re.search(r"import (\w+)", s)[1] for s in SCRIPTS])
def test_python(url: str, script: str) -> None:
    python = sys.executable
    if "litellm" in script:
        python = str(CLIENTS / "python")
        if not Path(python).exists():
            pytest.skip("litellm is not installed")
    done = subprocess.run(
        [python, "-c", script.replace(ADDRESS, url)],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_lm_eval_scores_alike_over_http_and_by_hugging_face(url: str, folder: Path) -> None:
    """The tasks of the page: the API and transformers on our export give the same scores."""
    if not (CLIENTS / "lm_eval").exists():
        pytest.skip("lm-eval is not installed")
    assert (
        main(["reshard", str(DEMO_MODEL), str(folder / "opt-175b-hf"), "--to", "safetensors"]) == 0
    )
    for task in blocks(PAGE, "yaml"):
        (folder / f"{task.split()[1]}.yaml").write_text(task)
    (folder / "lines.jsonl").write_text(blocks(PAGE, "json")[0])
    [command] = commands(PAGE, "lm_eval")
    command = [word.replace(ADDRESS, url).replace("2047", "511") for word in command]
    by_api = scores(command, folder, "api")
    place = command.index("--model") + 1
    command[place : place + 3] = ["hf", "--model_args", "pretrained=opt-175b-hf,dtype=float32"]
    by_hf = scores([*command, "--device", "cpu"], folder, "hf")
    assert by_api.keys() == by_hf.keys() == {"lords", "lines"}
    for task, numbers in by_api.items():
        assert numbers == pytest.approx(by_hf[task], abs=1e-3), task


def scores(command: list[str], folder: Path, name: str) -> dict[str, list[float]]:
    """What lm-eval reports: each task's metric, and each document's log-likelihoods or match."""
    out = folder / name
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [str(CLIENTS / command[0]), *command[1:], "--output_path", str(out), "--log_samples"],
        cwd=folder, capture_output=True, text=True, check=False,
        env=os.environ | offline | {"PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, list[float]] = {}
    for file in sorted(out.rglob("samples_*.jsonl")):
        task = file.name.split("_")[1]
        for line in file.read_text().splitlines():
            sample = json.loads(line)
            found.setdefault(task, []).extend(numbers_of(sample))
    return found


def numbers_of(sample: dict) -> list[float]:
    if "acc" in sample:
        return [float(pair[0]) for pair in sample["filtered_resps"]] + [sample["acc"]]
    return [sample["exact_match"], *map(ord, sample["filtered_resps"][0])]
