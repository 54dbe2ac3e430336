"""docs/anatomy.md and its picture: every number is one of the bundled model's files.

Read by Python's own zipfile and by plain offsets, so that the page is held by more than the reader
that it explains.
"""

from __future__ import annotations

import re
import struct
import zipfile
from itertools import pairwise
from math import prod
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import unshard
from unshard.cli.main import main
from unshard.formats.torch_zip import read_torch_file
from unshard.index.build import open_checkpoint

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "src/unshard/demo_model"
PAGE = (ROOT / "docs/anatomy.md").read_text()
PICTURE = ROOT / "docs/anatomy.svg"
FIRST = MODEL / "checkpoint_last-model_part-0-shard0.pt"
NUM_SHARDS = 5
FP16_BYTES = 2


def table(first_cell: str) -> list[list[str]]:
    """The rows of the table whose head begins so."""
    [block] = re.findall(rf"^\| {re.escape(first_cell)}.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    rows = [line.strip("| ").split("|") for line in block.splitlines()[2:] if line]
    return [[cell.strip().replace("`", "") for cell in row] for row in rows]


def members() -> list[list[str]]:
    """Name, header, content and length of each, and of the directory, by zipfile."""
    found = []
    with zipfile.ZipFile(FIRST) as archive, FIRST.open("rb") as file:
        for member in archive.infolist():
            assert member.compress_type == zipfile.ZIP_STORED
            file.seek(member.header_offset + 26)
            content = member.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
            name = member.filename.removeprefix(f"{FIRST.stem}/")
            found.append([name, member.header_offset, content, member.file_size])
        start = archive.start_dir
    found.append(["the directory", "", start, FIRST.stat().st_size - start])
    return [[str(cell) for cell in row] for row in found]


def units() -> dict[str, tuple[list[str], list[tuple[int, ...]]]]:
    """Key of each flat parameter -> names and shapes of its tensors, as the trainer wrote them."""
    found = {}
    for unit in read_torch_file(FIRST).content["shard_metadata"]["param_metadata"]:
        path = unit["fsdp_path"]
        described = unit["params"]["flat_param_0"]
        key = f"{path}.flat_param_0" if path else "flat_param_0"
        found[key] = described["names"], [tuple(shape) for shape in described["shapes"]]
    return found


def test_members() -> None:
    assert table("member") == members()


def test_storages() -> None:
    content = {row[0]: int(row[3]) for row in members()}
    rows = table("storage")
    assert [row[1] for row in rows] == list(units())
    for storage, key, elements, of_shard, zeros in rows:
        assert int(elements) == sum(map(prod, units()[key][1]))
        assert int(of_shard) * NUM_SHARDS == int(elements) + int(zeros)
        assert content[storage] == int(of_shard) * FP16_BYTES


def test_the_tensors_of_a_unit() -> None:
    names, shapes = units()["decoder.layers.0.flat_param_0"]
    stops = [0]
    for shape in shapes:
        stops.append(stops[-1] + prod(shape) * FP16_BYTES)
    piece = 79130 * FP16_BYTES
    expected = [
        [
            name,
            " × ".join(map(str, shape)),
            f"{start}, {stop}",
            ", ".join(map(str, range(start // piece, (stop - 1) // piece + 1))),
        ]
        for name, shape, (start, stop) in zip(names, shapes, pairwise(stops), strict=True)
    ]
    assert table("tensor, as this part has it") == expected


def test_fused_bytes_are_the_tensors_rows() -> None:
    checkpoint = unshard.open(MODEL)
    for name, places in table("tensor | bytes"):
        found = b""
        for shard, start, length in re.findall(r"shard (\d): (\d+) \+ (\d+)", places):
            file = MODEL / f"checkpoint_last-model_part-0-shard{shard}.pt"
            found += file.read_bytes()[int(start) : int(start) + int(length)]
        whole = checkpoint[f"decoder.layers.0.self_attn.{name}"]
        assert found == whole[:128].numpy().tobytes(), name


def test_boxes_of_parts() -> None:
    index = open_checkpoint(MODEL).index
    owners = {"embed_tokens": "decoder.", "fc1": "decoder.layers.0.", "fc2": "decoder.layers.0."}
    for names, *parts, whole in table("tensor | part 0"):
        for name in names.split(", "):
            owner = owners.get(name.split(".")[0], "decoder.layers.0.self_attn.")
            tensor = index[owner + name]
            assert " × ".join(map(str, tensor.shape)) == whole
            dim = {"rows": 0, "columns": 1}[parts[0].split()[0]]
            told = [tuple(map(int, re.findall(r"\d+", part))) for part in parts]
            found = [(c.offsets[dim], c.offsets[dim] + c.sizes[dim]) for c in tensor.chunks]
            assert told == sorted(found), name


def test_the_pictures_numbers_are_the_pages() -> None:
    nodes = ET.parse(PICTURE).iter("{http://www.w3.org/2000/svg}text")
    texts = [node.text or "" for node in nodes]
    numbers = {number for text in texts for number in re.findall(r"\d{3,}", text)}
    assert numbers
    assert numbers <= set(re.findall(r"\d{3,}", PAGE))


def test_its_commands_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(ROOT)
    for line in re.findall(r"^\$ unshard (.*)$", PAGE, re.MULTILINE):
        assert main(line.split()) == 0
    assert "q_proj.weight" in capsys.readouterr().out


def test_links_exist() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
