"""`unshard inspect` as a user meets it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from unshard.cli.main import main
from unshard.index.build import open_checkpoint
from unshard.testing.tiny_checkpoint import Array, write_tiny_checkpoint

Raw = tuple[Path, dict[str, Array]]
BIAS = "decoder.layers.1.fc1.bias"


def plant_nan(folder: Path) -> tuple[str, int]:
    """NaN over the first element of a bias; its file and byte."""
    piece = open_checkpoint(folder).index[BIAS].chunks[0].ref.ranges[0]
    with Path(piece.path).open("r+b") as file:
        file.seek(piece.offset)
        file.write(np.float16(np.nan).tobytes())
    return piece.path, piece.offset


def test_files(raw: Raw, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(raw[0]), "--files"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if ".pt " in line]
    assert [row[0] for row in rows] == sorted(path.name for path in raw[0].iterdir())
    assert [(row[1], row[2]) for row in rows] == [
        (str(t), str(f)) for t in (0, 1) for f in range(3)
    ]
    assert main(["inspect", str(raw[0]), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    files = described["files"]
    assert sum(file["weight_bytes"] for file in files) == described["bytes"]["unique_bytes"]
    assert sum(file["replica_bytes"] for file in files) == described["bytes"]["replica_bytes"]
    for file, row in zip(files, rows, strict=True):
        size = (raw[0] / row[0]).stat().st_size
        assert size == file["num_bytes"] == int(row[4].replace(",", ""))
        parts = (file["weight_bytes"], file["replica_bytes"], file["other_bytes"])
        assert sum(parts) == size
        assert min(parts) >= 0


def test_tree_folds_equal_layers_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = write_tiny_checkpoint(tmp_path)
    assert main(["inspect", str(tmp_path), "--tensors"]) == 0
    out = capsys.readouterr().out
    folded = r"^  layers\.0 … layers\.1 +16 tensors each, [\d,]+ elements each$"
    assert re.search(folded, out, re.MULTILINE)
    assert re.search(r"^      k_proj\.weight +fp16  16 x 16$", out, re.MULTILINE)
    assert out.count("fc1.weight") == 1
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    tensors = json.loads(capsys.readouterr().out)["tensors"]
    assert {each["name"] for each in tensors} == truth.keys()


def test_health_names_file_and_byte_and_exits_3(
    raw: Raw, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(raw[0]), "--health"]) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    path, offset = plant_nan(raw[0])
    page = tmp_path / "report.html"
    assert main(["inspect", str(raw[0]), "--health", "--html", str(page)]) == 3
    captured = capsys.readouterr()
    assert f"corrupt     {BIAS}: 1 value is NaN" in captured.out
    assert path in captured.out
    assert re.search(rf"byte +{offset}  \[0\] = nan", captured.out)
    assert captured.err.startswith("error: ")
    assert "Corrupt: 1 tensor" in page.read_text()


def test_health_as_json_is_strict_json(raw: Raw, capsys: pytest.CaptureFixture[str]) -> None:
    path, offset = plant_nan(raw[0])
    assert main(["inspect", str(raw[0]), "--health", "--json"]) == 3

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    health = json.loads(capsys.readouterr().out, parse_constant=refuse)["health"]
    assert health["is_healthy"] is False
    [finding] = health["findings"]
    assert finding["places"] == [
        {"path": path, "byte_offset": offset, "index": [0], "value": "nan"}
    ]
    bias = next(each for each in health["tensors"] if each["name"] == BIAS)
    assert (bias["num_nan"], bias["dtype"], bias["shape"]) == (1, "fp16", [24])


def test_options_that_need_health(raw: Raw, tmp_path: Path) -> None:
    assert main(["inspect", str(raw[0]), "--html", str(tmp_path / "x.html")]) == 2
    assert main(["inspect", str(raw[0]), "--workers", "2"]) == 2
    assert main(["inspect", str(raw[0]), "--health", "--workers", "0"]) == 2
    assert main(["inspect", str(raw[0]), "--health", "--html", str(tmp_path / "no" / "x")]) == 2
    assert not list(tmp_path.glob("*.html"))


def test_file_names_of_any_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not UTF-8, with terminal commands and markup: shown, and harmless."""
    write_tiny_checkpoint(tmp_path / "raw", tp_size=1, fsdp_size=1)
    [file] = (tmp_path / "raw").iterdir()
    name = os.fsdecode(b"\xff\x1b[2J<b>.pt")
    file.rename(tmp_path / "raw" / name)
    plant_nan(tmp_path / "raw")
    page = tmp_path / "report.html"
    arguments = ["inspect", str(tmp_path / "raw"), "--files", "--health", "--html", str(page)]
    assert main(arguments) == 3
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"\x1b[2J<b>.pt" in out
    assert "<b>.pt" not in page.read_text("utf-8")
    assert "&lt;b&gt;.pt" in page.read_text("utf-8")
    assert main(["inspect", str(tmp_path / "raw"), "--health", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["health"]["findings"][0]["places"][0]["path"]
