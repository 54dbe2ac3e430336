"""`unshard diff` as a user meets it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from unshard.cli.main import main
from unshard.index.build import open_checkpoint
from unshard.testing.tiny_checkpoint import TINY, Array, write_tiny_checkpoint

Raw = tuple[Path, dict[str, Array]]


@pytest.fixture
def exported(raw: Raw, tmp_path: Path) -> Path:
    assert main(["reshard", str(raw[0]), str(tmp_path / "hf"), "--to", "safetensors"]) == 0
    return tmp_path / "hf"


def rewrite(folder: Path, dtype: type, **values: float) -> None:
    """The safetensors in another dtype, with a value at the start of some tensors of layer 1."""
    tensors = {k: v.astype(dtype) for k, v in load_file(folder / "model.safetensors").items()}
    for name, value in values.items():
        tensors[f"model.decoder.layers.1.{name}.weight"].reshape(-1)[0] = value
    save_file(tensors, folder / "model.safetensors")


def test_other_dtype_equal_values(
    raw: Raw, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(exported, np.float32)
    capsys.readouterr()
    assert main(["diff", str(raw[0]), str(exported)]) == 3
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "decoder.embed_tokens.weight: dtypes differ (fp16, fp32); values equal"
    assert main(["diff", str(raw[0]), str(exported), "--values"]) == 0
    assert capsys.readouterr().out.startswith("equal: 36 tensors, ")


def test_values_alone_still_fail_on_another_value(
    raw: Raw, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(exported, np.float32, fc1=7.0, fc2=np.nan)
    capsys.readouterr()
    assert main(["diff", str(raw[0]), str(exported), "--values"]) == 3
    captured = capsys.readouterr()
    first, second, head, row, rest = captured.out.splitlines()
    assert first.startswith(
        "decoder.layers.1.fc1.weight: dtypes differ (fp16, fp32); first at index (0, 0): "
    )
    assert "and nan; 1 of 384 elements differ, max |Δ| NaN (1 NaN on one side only)" in second
    assert head.split()[0] == "layer"
    assert row.split() == ["1", "2", "of", "16", "2", "NaN"]
    assert rest == "2 of 3 layers (the root counts as one) are the same"
    assert "2 tensors differ" in captured.err


def test_signs_of_zeros_are_bits_and_not_values(
    raw: Raw, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_checkpoint(tmp_path / "same")
    for folder, value in ((raw[0], 0.0), (tmp_path / "same", -0.0)):
        piece = open_checkpoint(folder).index["decoder.layers.0.fc1.weight"].chunks[0].ref.ranges[0]
        with Path(piece.path).open("r+b") as file:
            file.seek(piece.offset)
            file.write(np.float16(value).tobytes())
    capsys.readouterr()
    assert main(["diff", str(raw[0]), str(tmp_path / "same")]) == 3
    assert "0.0 and -0.0; 1 of 384 elements differ, max |Δ| 0 at" in capsys.readouterr().out
    assert main(["diff", str(raw[0]), str(tmp_path / "same"), "--values"]) == 0
    assert "1 tensors differ in dtype or bits" in capsys.readouterr().out


def test_json(raw: Raw, exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(exported, np.float16, fc2=np.nan)
    capsys.readouterr()
    assert main(["diff", str(raw[0]), str(exported), "--json"]) == 3
    said = json.loads(capsys.readouterr().out)
    [difference] = said["differences"]
    assert said["is_same"] is False
    assert difference["name"] == "decoder.layers.1.fc2.weight"
    assert difference["dtypes"] == ["fp16", "fp16"]
    assert difference["values"]["first_values"][1] == "nan"
    assert [layer["num_different_tensors"] for layer in said["layers"]] == [0, 0, 1]
    assert main(["diff", str(raw[0]), str(raw[0]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["is_same"] is True


def test_different_models_are_said_to_be(
    raw: Raw, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = replace(TINY, num_layers=TINY.num_layers + 1)
    write_tiny_checkpoint(tmp_path / "other", other)
    assert main(["diff", str(raw[0]), str(tmp_path / "other")]) == 3
    expected = f"different models: num_layers {TINY.num_layers} and {other.num_layers}\n"
    assert expected in capsys.readouterr().err
