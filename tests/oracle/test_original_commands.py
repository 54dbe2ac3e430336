"""`unshard metaseq` against every output of the original scripts that the reference lists.

Prints how many files are the same; what differs must be a fault of the original's that
docs/metaseq-commands.md names.
"""

from __future__ import annotations

import csv
import hashlib
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import omegaconf
import pytest
import torch

from unshard.cli.main import main

Row = dict[str, str]

FAULTS = {
    "padding stays in the optimizer's moments": r"(opt|optt)/fsdp-.*-s0-None/",
    "reshard_mp drops project_in_dim and project_out_dim": r"p350/mp",
    "reshard_mp writes part 0 of an output projection into every part": r"untied/mp",
    "reshard_mp shares out 57 rows as 29 and 28": r"tp3/mp(3|1)to(2|4)/",
}
"""Where the original is wrong and unshard is not: paths in the tables."""

pytestmark = [pytest.mark.oracle, pytest.mark.slow, pytest.mark.timeout(600)]


def as_omegaconf_2_1(make_cfg: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    """OmegaConf 2.1, with which the reference was made, did not name the type of its mappings."""

    def forget(node: object) -> None:
        if isinstance(node, omegaconf.DictConfig):
            node._metadata.object_type = None
        if isinstance(node, omegaconf.Container):
            content = node._content
            for child in content.values() if isinstance(content, dict) else content:
                forget(child)

    def made(settings: dict[str, Any]) -> Any:
        cfg = make_cfg(settings)
        forget(cfg)
        return cfg

    return made


@pytest.fixture(scope="module")
def raw(generator: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw checkpoint of every preset."""
    folder = tmp_path_factory.mktemp("raw")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator, "make_cfg", as_omegaconf_2_1(generator.make_cfg))
        for preset in generator.PRESETS:
            generator.write(generator.get_cfg(preset), str(folder / preset))
    return folder


def rows_of(table: Path) -> list[Row]:
    """The outputs that the original did write."""
    with table.open() as file:
        rows = csv.DictReader(file, delimiter="\t")
        return [row for row in rows if not row["md5"].startswith("ERROR")]


def commands(rows: list[Row], raw: Path, tree: Path) -> Iterator[list[str]]:
    """The command of each row, each once; what another one reads comes first."""
    merged = "(of"
    made: set[tuple[str, ...]] = set()
    for row in sorted(rows, key=lambda row: (row["script"], merged in row["options"])):
        command = fsdp(row, raw, tree) if row["script"] == "reshard_fsdp" else mp(row, tree)
        if tuple(command) not in made:
            made.add(tuple(command))
            yield command


def fsdp(row: Row, raw: Path, tree: Path) -> list[str]:
    said = dict(word.split("=") for word in row["options"].split())
    output = re.sub(r"-shard\d+\.pt$", "-shard{i}.pt", row["path"])
    command = [
        "reshard-fsdp",
        *("--input", f"{raw}/{row['preset']}/checkpoint_last-model_part-{said['part']}-shard*.pt"),
        *("--output", f"{tree}/{output}"),
        *("--num-output-shards", said["n"]),
        *("--unflatten-weights", said["unflatten"]),
        *("--skip-optimizer-state", said["skip_opt"]),
    ]
    return command if said["dtype"] == "None" else [*command, "--output-dtype", said["dtype"]]


def mp(row: Row, tree: Path) -> list[str]:
    match = re.match(r"(\d+)->(\d+)(?: \(of (\d+)->1\))?", row["options"])
    assert match is not None
    folder = f"mp{match[3]}to1" if match[3] else "fsdp-t*-n1-u1-s1-None"
    return [
        "reshard-mp",
        *("--input", f"{tree}/{row['preset']}/{folder}/reshard-model_part-*.pt"),
        *("--output", f"{tree}/{Path(row['path']).parent}/reshard-model_part-{{i}}.pt"),
        *("--num-output-parts", match[2]),
    ]


def sameness(path: Path, row: Row) -> str:
    """How far the file at `path` is what the row says."""
    if not path.exists():
        return "refused"
    if hashlib.md5(path.read_bytes()).hexdigest() == row["md5"]:
        return "same bytes"
    with zipfile.ZipFile(path) as archive:
        records = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
    keys = sorted(int(name[5:]) for name in records if name.startswith("data/"))
    storages = hashlib.sha256(b"".join(records[f"data/{key}"] for key in keys)).hexdigest()[:16]
    pickle = hashlib.sha256(records["data.pkl"]).hexdigest()[:16]
    if storages != row["storages"]:
        return "different"
    return "same content" if pickle == row["pkl"] else "same storages"


def run_all(rows: list[Row], raw: Path, tree: Path, *options: str) -> dict[str, str]:
    """Runs every row's command; path -> how far it is the same."""
    for command in commands(rows, raw, tree):
        main(["metaseq", *command, *options])
    return {row["path"]: sameness(tree / row["path"], row) for row in rows}


@pytest.mark.parametrize("version", ["1.13", "2.13"])
def test_only_faults_of_the_original_make_a_difference(
    version: str, reference: Path, raw: Path, tmp_path: Path
) -> None:
    rows = rows_of(reference / f"reference-torch{version}.tsv")
    found = run_all(rows, raw, tmp_path, "--torch-version", version)
    counts = Counter(found.values())
    print(f"torch {version}: {dict(counts)}")  # noqa: T201  (shown by -s)
    assert counts == {"same bytes": 510, "different": 50, "refused": 12}
    differing = [path for path, how in found.items() if how != "same bytes"]
    explained = re.compile("|".join(FAULTS.values()))
    assert [path for path in differing if not explained.match(path)] == []


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=False)  # type: ignore[no-any-return]


def assert_same_tensors(found: dict[Any, Any], truth: dict[Any, Any]) -> None:
    """Keys, and values bit for bit; the order is the original's and not the trainer's."""
    assert found.keys() == truth.keys()
    for key, value in truth.items():
        if isinstance(value, dict):
            assert_same_tensors(found[key], value)
        elif isinstance(value, torch.Tensor):
            assert found[key].dtype == value.dtype
            assert torch.equal(found[key], value), key
        else:
            assert found[key] == value


@pytest.mark.parametrize("preset", ["opt", "optt"])
def test_shards_of_weights_and_moments_are_as_the_trainer_would_cut_them(
    preset: str, generator: ModuleType, raw: Path, tmp_path: Path
) -> None:
    for count in (1, 2, 4):
        truth, made = tmp_path / f"truth{count}", tmp_path / f"made{count}"
        generator.write(generator.get_cfg(preset, fsdp=count), str(truth))
        for part in range(2):
            name = f"checkpoint_last-model_part-{part}-shard"
            command = [
                "metaseq", "reshard-fsdp", "--input", f"{raw}/{preset}/{name}*.pt",
                "--output", f"{made}/{name}{{i}}.pt", "--num-output-shards", str(count),
                "--unflatten-weights", "False",
            ]  # fmt: skip
            assert main(command) == 0
        for path in truth.iterdir():
            expected, found = load(path), load(made / path.name)
            for key in ("model", "last_optimizer_state", "shard_metadata"):
                assert_same_tensors(found[key], expected[key])


@pytest.mark.parametrize("preset", ["base", "p350", "untied", "sep"])
def test_parts_are_as_the_trainer_would_split_them(
    preset: str, generator: ModuleType, raw: Path, tmp_path: Path
) -> None:
    cfg = generator.get_cfg(preset)
    for part in range(cfg["tp"]):
        name = f"checkpoint_last-model_part-{part}-shard*.pt"
        command = [
            "--input",
            f"{raw}/{preset}/{name}",
            "--output",
            f"{tmp_path}/u/p-model_part-{part}.pt",
        ]
        assert main(["metaseq", "reshard-fsdp", *command]) == 0
    for count in (1, 2):
        generator.write(generator.get_cfg(preset, tp=count, fsdp=1), str(tmp_path / f"raw{count}"))
        command = ["--input", f"{tmp_path}/u/*.pt", "--output", f"{tmp_path}/mp{count}/{{i}}.pt"]
        assert main(["metaseq", "reshard-mp", *command, "--num-output-parts", str(count)]) == 0
        for part in range(count):
            truth = f"{tmp_path}/raw{count}/checkpoint_last-model_part-{part}-shard0.pt"
            command = ["--input", truth, "--output", f"{tmp_path}/truth{count}/{part}.pt"]
            assert main(["metaseq", "reshard-fsdp", *command]) == 0
            found = load(tmp_path / f"mp{count}/{part}.pt")
            assert_same_tensors(found["model"], load(tmp_path / f"truth{count}/{part}.pt")["model"])
