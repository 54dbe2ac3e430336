"""metaseq's own commands: flags as the originals took them, every mistake one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unshard.cli.main import main
from unshard.testing.tiny_checkpoint import Array, write_tiny_checkpoint

Raw = tuple[Path, dict[str, Array]]
Captured = pytest.CaptureFixture[str]


def fsdp(folder: Path, output: Path, *options: str, part: int = 0) -> int:
    pattern = f"{folder}/checkpoint_last-model_part-{part}-shard*.pt"
    command = ["metaseq", "reshard-fsdp", "--input", pattern, "--output", str(output)]
    return main([*command, *options])


def mp(folder: Path, output: Path, *options: str) -> int:
    pattern = f"{folder}/*model_part-*.pt"
    return main(["metaseq", "reshard-mp", "--input", pattern, "--output", str(output), *options])


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=False)  # type: ignore[no-any-return]


def records(path: Path) -> bytes:
    return path.read_bytes()


@pytest.fixture
def parts(raw: Raw, tmp_path: Path) -> Path:
    """The tiny checkpoint's two parts, unflattened."""
    for part in range(2):
        assert fsdp(raw[0], tmp_path / f"parts/reshard-model_part-{part}.pt", part=part) == 0
    return tmp_path / "parts"


@pytest.mark.parametrize(
    "options",
    [
        ["--num-output-shards", "2", "--unflatten-weights", "False"],
        ["--num_output_shards=2", "--unflatten_weights=false"],
        ["--unflatten-weights", "0", "--num-output-shards=2", "--skip-optimizer-state"],
        ["--num-output-shards", "2", "--unflatten-weights", "no", "--output-dtype", "None"],
    ],
)
def test_options_are_taken_as_fire_takes_them(
    raw: Raw, tmp_path: Path, options: list[str], capsys: Captured
) -> None:
    assert fsdp(raw[0], tmp_path / "a/s{i}.pt", *options) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert (first, second) == (f"{tmp_path}/a/s0.pt", f"{tmp_path}/a/s1.pt")
    assert next(iter(load(tmp_path / "a/s1.pt")["model"])) == "flat_param_0"


def test_both_names_of_input_and_output(raw: Raw, tmp_path: Path) -> None:
    pattern = f"{raw[0]}/checkpoint_last-model_part-0-shard*.pt"
    names = ["--input-glob-pattern", pattern, "--output-shard-name", f"{tmp_path}/a/x.pt"]
    assert main(["metaseq", "reshard-fsdp", *names]) == 0
    assert fsdp(raw[0], tmp_path / "b/x.pt") == 0
    assert records(tmp_path / "a/x.pt") == records(tmp_path / "b/x.pt")


def test_an_output_without_a_folder(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original fails here."""
    monkeypatch.chdir(tmp_path)
    assert fsdp(raw[0], Path("here.pt")) == 0
    assert load(tmp_path / "here.pt")["model"]["decoder.version"].tolist() == [3.0]


def test_many_commands_may_write_to_one_folder_and_again(parts: Path, raw: Raw) -> None:
    before = {path.name: records(path) for path in parts.iterdir()}
    assert sorted(before) == ["reshard-model_part-0.pt", "reshard-model_part-1.pt"]
    assert fsdp(raw[0], parts / "reshard-model_part-0.pt") == 0
    assert {path.name: records(path) for path in parts.iterdir()} == before


def test_parts_of_several_folders_are_ordered_by_their_rank(parts: Path, tmp_path: Path) -> None:
    """As the outputs of one command per part lie, whatever the folders are called."""
    for part, folder in enumerate(("9", "1")):
        (tmp_path / folder).mkdir()
        name = f"reshard-model_part-{part}.pt"
        (parts / name).rename(tmp_path / folder / name)
    pattern = f"{tmp_path}/[19]/reshard-model_part-*.pt"
    assert main(["metaseq", "reshard-mp", "--input", pattern, "--output", f"{tmp_path}/w.pt"]) == 0
    assert load(tmp_path / "w.pt")["model"]["decoder.embed_tokens.weight"].shape == (56, 16)


def test_torchs_layouts(raw: Raw, tmp_path: Path) -> None:
    """Both are read by torch, hold the same, and differ in their records."""
    for version in ("1.13", "2.13"):
        assert fsdp(raw[0], tmp_path / f"{version}/x.pt", "--torch-version", version) == 0
    old, new = (load(tmp_path / f"{version}/x.pt") for version in ("1.13", "2.13"))
    assert list(old) == list(new)
    assert all(torch.equal(old["model"][name], new["model"][name]) for name in old["model"])
    assert b"x/.data/serialization_id" in records(tmp_path / "2.13/x.pt")
    assert b"serialization_id" not in records(tmp_path / "1.13/x.pt")


MISTAKES = {
    "no such file": (["--input", "nowhere*.pt"], 2, "nowhere*.pt: no file matches"),
    "two parts": (["--input", "{raw}/*.pt"], 2, "both claim shard 0"),
    "no place for a number": (
        ["--num-output-shards", "2", "--unflatten-weights", "False"], 2, "the same name",
    ),
    "other braces": (["--output", "{out}/{{x}}.pt"], 2, "only {{i}} may stand in braces"),
    "a folder per shard": (["--output", "{out}/{{i}}/a.pt"], 2, "in the file's name only"),
    "unflattened shards": (
        ["--num-output-shards", "2", "--output", "{out}/{{i}}.pt"], 2, "one file only, not into 2",
    ),
    "no truth": (["--unflatten-weights", "maybe"], 2, "'maybe' is neither True nor False"),
    "no dtype": (["--output-dtype", "fp8"], 2, "'fp8'"),
    "no number": (["--num-output-shards", "0"], 2, "0"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str, raw: Raw, tmp_path: Path, capsys: Captured) -> None:
    options, code, message = MISTAKES[mistake]
    filled = [each.format(raw=raw[0], out=tmp_path / "out") for each in options]
    assert fsdp(raw[0], tmp_path / "out/x.pt", *filled) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message.format() in captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shard", [0, 1, 2])
def test_a_missing_shard_is_refused(shard: int, raw: Raw, tmp_path: Path, capsys: Captured) -> None:
    """The original takes what is there."""
    (raw[0] / f"checkpoint_last-model_part-0-shard{shard}.pt").unlink()
    assert fsdp(raw[0], tmp_path / "x.pt") == 3
    expected = (
        f"shard{shard}.pt is missing"
        if shard < 2
        else "takes 3 FSDP shards of this length, but only 2 are"
    )
    assert expected in capsys.readouterr().err


def test_a_missing_part_is_refused(parts: Path, tmp_path: Path, capsys: Captured) -> None:
    (parts / "reshard-model_part-0.pt").unlink()
    assert mp(parts, tmp_path / "x.pt") == 3
    assert "reshard-model_part-0.pt is missing" in capsys.readouterr().err


def test_a_missing_last_part_is_refused(parts: Path, tmp_path: Path, capsys: Captured) -> None:
    """Half a model looks whole by its names; its shapes say otherwise."""
    (parts / "reshard-model_part-1.pt").unlink()
    assert mp(parts, tmp_path / "x.pt") == 3
    assert "is one of 2 tensor-parallel parts, but 1 was given" in capsys.readouterr().err
    assert not (tmp_path / "x.pt").exists()


def test_flat_parts_are_refused(raw: Raw, tmp_path: Path, capsys: Captured) -> None:
    """The original writes a file with nothing but the version in it (metaseq#695)."""
    for part in range(2):
        name = f"flat/reshard-model_part-{part}.pt"
        assert fsdp(raw[0], tmp_path / name, "--unflatten-weights", "False", part=part) == 0
    assert mp(tmp_path / "flat", tmp_path / "x.pt") == 2
    error = capsys.readouterr().err
    assert "holds flat parameters" in error
    assert "reshard-fsdp" in error


def test_copies_that_differ(tmp_path: Path, capsys: Captured) -> None:
    """Within --eps the first part's is taken; beyond, it is an error that says how far."""
    write_tiny_checkpoint(tmp_path / "raw", fsdp_size=1)
    for part in range(2):
        name = f"parts/reshard-model_part-{part}.pt"
        assert fsdp(tmp_path / "raw", tmp_path / name, part=part) == 0
    changed = load(tmp_path / "parts/reshard-model_part-1.pt")
    changed["model"]["decoder.layer_norm.weight"][3] += 0.25
    torch.save(changed, tmp_path / "parts/reshard-model_part-1.pt")
    capsys.readouterr()
    assert mp(tmp_path / "parts", tmp_path / "x.pt") == 3
    error = capsys.readouterr().err
    assert "decoder.layer_norm.weight: the copies in" in error
    assert "differ by up to " in error
    assert mp(tmp_path / "parts", tmp_path / "x.pt", "--eps", "0.3") == 0
    first = load(tmp_path / "parts/reshard-model_part-0.pt")["model"]["decoder.layer_norm.weight"]
    taken = load(tmp_path / "x.pt")["model"]["decoder.layer_norm.weight"]
    np.testing.assert_array_equal(taken, first)


def test_a_failure_leaves_no_file(raw: Raw, tmp_path: Path) -> None:
    shard = raw[0] / "checkpoint_last-model_part-0-shard1.pt"
    damaged = bytearray(shard.read_bytes())
    damaged[3000:3001] = bytes([damaged[3000] ^ 1])
    shard.write_bytes(damaged)
    assert fsdp(raw[0], tmp_path / "out/x.pt") == 3
    assert list((tmp_path / "out").iterdir() if (tmp_path / "out").exists() else []) == []
