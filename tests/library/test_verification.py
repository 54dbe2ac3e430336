"""Without a manifest: known files are verified, unknown md5s of parts alarm nobody."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

import unshard
from unshard import releases
from unshard.cli.main import main
from unshard.formats.zip_directory import read_zip_directory
from unshard.library import opened_folder
from unshard.testing.tiny_checkpoint import TINY, write_tiny_checkpoint
from unshard.verify import known_parts

SHARED = Path(
    os.environ.get("UNSHARD_REFERENCE", Path(__file__).parents[3] / "shared/oracle")
).parent
WIDE = replace(TINY, num_heads=8)
"""Divides into eight parts."""


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def parts(tmp_path, monkeypatch) -> Path:
    """Eight parts that open, of a model that passes for OPT-175B; nobody knows their md5s."""
    write_tiny_checkpoint(tmp_path / "raw", WIDE, tp_size=8, fsdp_size=1)
    assert main(["reshard", str(tmp_path / "raw"), str(tmp_path / "parts"), "--to", "metaseq"]) == 0
    (tmp_path / "parts/dict.txt").unlink()
    monkeypatch.setattr(opened_folder, "OPT_175B_SIZE", (WIDE.num_layers, WIDE.hidden_size))
    return tmp_path / "parts"


def know(monkeypatch, folder: Path, *names: str, origin: str = "printed somewhere") -> None:
    """From now on, the md5s of these parts are a known set."""
    md5s = tuple(
        md5((folder / name).read_bytes()) if name in names else "0" * 32
        for name in releases.PART_NAMES
    )
    known = releases.PartsDigests(origin, "a script", (590, 711), md5s)
    monkeypatch.setattr(known_parts, "KNOWN_PARTS", (*known_parts.KNOWN_PARTS, known))


def flip(path: Path, offset: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_unknown_parts_are_no_alarm(parts, capsys):
    assert main(["verify", str(parts)]) == 0
    out, err = capsys.readouterr()
    assert out.count("unknown    reshard-model_part-") == 8
    assert "no part has an md5 of the 5 sets known of OPT-175B" in out
    assert "`unshard fingerprint` depends on the weights alone" in out
    assert "error" not in err


def test_a_known_set_is_named_with_its_script(parts, monkeypatch, capsys):
    know(monkeypatch, parts, *releases.PART_NAMES)
    assert main(["verify", str(parts)]) == 0
    out = capsys.readouterr().out.splitlines()[-2:]
    assert out == [
        "8 parts have md5s printed somewhere (metaseq #590, #711)",
        "  written by a script",
    ]
    assert main(["verify", str(parts), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["is_right"]
    assert len(report["parts"]["known"]) == 8
    assert report["tokenizer"] is None


def test_parts_of_two_known_sets_are_right(parts, monkeypatch, capsys):
    know(monkeypatch, parts, *releases.PART_NAMES[:3], origin="of one day")
    know(monkeypatch, parts, *releases.PART_NAMES[3:], origin="of another")
    assert main(["verify", str(parts)]) == 0
    out = capsys.readouterr().out
    assert "3 parts have md5s of one day" in out
    assert "5 parts have md5s of another" in out


def test_one_part_that_left_its_set_is_an_alarm(parts, monkeypatch, capsys):
    know(monkeypatch, parts, *releases.PART_NAMES)
    weight = unshard.open(parts)["decoder.layers.1.fc1.weight"].stored.chunks[5].ref.ranges[0]
    flip(Path(weight.path), weight.offset)
    assert main(["verify", str(parts)]) == 3
    err = capsys.readouterr().err
    assert "reshard-model_part-5.pt: in no known set, though the other 7 parts are" in err


def test_a_part_cut_short_is_an_alarm(parts, capsys):
    os.truncate(parts / "reshard-model_part-2.pt", 3000)
    assert main(["verify", str(parts)]) == 3
    out, err = capsys.readouterr()
    assert "reshard-model_part-2.pt: " in err
    assert "no harm" not in out


def test_a_part_that_cannot_be_read_is_an_alarm(parts, capsys):
    (parts / "reshard-model_part-7.pt").unlink()
    (parts / "reshard-model_part-7.pt").mkdir()
    assert main(["verify", str(parts)]) == 3
    assert "reshard-model_part-7.pt cannot be read: is not a file" in capsys.readouterr().err


def test_parts_of_another_model_are_not_looked_up(tmp_path, capsys):
    write_tiny_checkpoint(tmp_path / "raw", WIDE, tp_size=8, fsdp_size=1)
    for rank, path in enumerate(sorted((tmp_path / "raw").iterdir())):
        path.rename(tmp_path / "raw" / releases.PART_NAMES[rank])
    assert main(["verify", str(tmp_path / "raw")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("8 torch files are as they were written, by the CRC-32s stored")
    assert "md5" not in out


def test_a_folder_that_proves_nothing_needs_a_manifest(tmp_path, capsys):
    (tmp_path / "note.txt").touch()
    assert main(["verify", str(tmp_path)]) == 2
    assert "nothing can be verified" in capsys.readouterr().err


def test_every_torch_file_with_a_flipped_bit_is_named(raw, capsys):
    folder, _ = raw
    weights = unshard.open(folder)
    places = {
        chunk.ref.ranges[0].path: chunk.ref.ranges[0].offset
        for tensor in weights.values()
        for chunk in tensor.stored.chunks
    }
    first, second = sorted(places)[:2]
    flip(Path(first), places[first])
    flip(Path(second), places[second])
    assert main(["verify", str(folder), "--json"]) == 3
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert not report["is_right"]
    assert [each["name"] for each in report["archives"]["damaged"]] == [
        Path(first).name,
        Path(second).name,
    ]
    assert len(report["archives"]["sound"]) == 4
    assert "2 of 6 torch files are damaged" in err


@pytest.fixture
def resharded(raw, tmp_path) -> Path:
    folder, _ = raw
    assert main(["reshard", str(folder), str(tmp_path / "out"), "--to", "safetensors"]) == 0
    return tmp_path / "out"


def test_a_reshard_is_verified_by_the_fingerprint_that_it_recorded(resharded, capsys):
    capsys.readouterr()
    assert main(["verify", str(resharded)]) == 0
    assert "the weights are those of the fingerprint in unshard.json" in capsys.readouterr().out
    flip(next(resharded.glob("*.safetensors")), -1)
    assert main(["verify", str(resharded)]) == 3
    assert "not those whose fingerprint unshard.json records" in capsys.readouterr().err


def test_what_the_fingerprint_proves_is_read_once_and_all_else_by_its_crc(raw, tmp_path, capsys):
    folder, _ = raw
    assert main(["reshard", str(folder), str(tmp_path / "parts"), "--to", "metaseq"]) == 0
    capsys.readouterr()
    path = tmp_path / "parts/reshard-model_part-1.pt"
    records = read_zip_directory(path)
    tensors = unshard.open(tmp_path / "parts")
    weights = sum(tensor.stored.num_bytes for tensor in tensors.values())

    assert main(["verify", str(path.parent), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    stored = 2 * sum(record.length for record in records.values())
    assert stored - report["archives"]["num_bytes"] >= weights
    assert len(report["archives"]["sound"]) == 2

    for name, record in records.items():
        flip(path, record.offset + record.length - 1)
        assert main(["verify", str(path.parent)]) == 3, name
        flip(path, record.offset + record.length - 1)
    assert main(["verify", str(path.parent)]) == 0


def test_a_reshard_that_does_not_open_is_an_alarm(resharded, capsys):
    for path in resharded.glob("*.safetensors"):
        os.truncate(path, path.stat().st_size - 8)
    assert main(["verify", str(resharded)]) == 3
    for path in resharded.glob("*.safetensors"):
        path.unlink()
    assert main(["verify", str(resharded)]) == 3


def test_safetensors_without_a_record_are_unproved(resharded, capsys):
    (resharded / "unshard.json").unlink()
    (resharded / "dict.txt").write_bytes(releases.dict_txt(TINY.vocab_size))
    assert main(["verify", str(resharded)]) == 0
    assert "unproved   model.safetensors  has no checksum" in capsys.readouterr().out


def test_a_vocabulary_decides_what_dict_txt_holds(raw, capsys):
    folder, _ = raw
    (folder / "dict.txt").write_bytes(releases.dict_txt(TINY.vocab_size))
    (folder / "gpt2-vocab.json").write_text("{}")  # its own, which nobody knows
    assert main(["verify", str(folder)]) == 0
    assert "1 file matches a vocabulary of 56 tokens" in capsys.readouterr().out
    flip(folder / "dict.txt")
    assert main(["verify", str(folder)]) == 3
    assert "dict.txt: not of a vocabulary of 56 tokens" in capsys.readouterr().err


def test_opts_tokenizer_is_verified_where_it_lies_alone(tmp_path, capsys):
    (tmp_path / "dict.txt").write_bytes(releases.dict_txt(50272))
    assert main(["verify", str(tmp_path)]) == 0
    (tmp_path / "gpt2-merges.txt").write_text("#version: 0.2\n")
    assert main(["verify", str(tmp_path)]) == 3
    out, err = capsys.readouterr()
    assert "different  gpt2-merges.txt  has md5 " in out
    assert "gpt2-merges.txt: not of OPT's tokenizer" in err


def test_a_tokenizer_beside_weights_that_do_not_open_is_not_judged(raw, capsys):
    folder, _ = raw
    (folder / "gpt2-merges.txt").write_text("#version: 0.2\n")
    os.truncate(folder / "checkpoint_last-model_part-0-shard0.pt", 99)
    assert main(["verify", str(folder)]) == 3
    assert "gpt2-merges.txt" not in capsys.readouterr().out
    lines = [f"{md5(path.read_bytes())}  {path.name}\n" for path in folder.glob("*.pt")]
    (folder / "all.md5").write_text("".join(lines))
    assert main(["verify", str(folder)]) == 0
    assert "extra      gpt2-merges.txt" in capsys.readouterr().out


def test_what_the_tokenizer_explains_is_not_extra(raw, capsys):
    folder, _ = raw
    lines = [f"{md5(path.read_bytes())}  {path.name}\n" for path in folder.glob("*.pt")]
    (folder / "all.md5").write_text("".join(lines))
    (folder / "dict.txt").write_bytes(releases.dict_txt(TINY.vocab_size))
    (folder / "note.txt").touch()
    assert main(["verify", str(folder)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "extra      note.txt"
    assert [line.split(" (")[0] for line in out[1:]] == [
        f"6 files match {folder}/all.md5",
        "1 file matches a vocabulary of 56 tokens",
    ]


def test_the_known_sets_are_whole_and_apart():
    md5s = [md5 for parts in releases.KNOWN_PARTS for md5 in parts.md5s]
    assert all(len(parts.md5s) == 8 for parts in releases.KNOWN_PARTS)
    assert all(re.fullmatch("[0-9a-f]{32}", md5) for md5 in md5s)
    assert len(set(md5s)) == 40
    cited = {number for parts in releases.KNOWN_PARTS for number in parts.issues}
    assert {590, 702, 711} <= cited


@pytest.mark.oracle
@pytest.mark.skipif(not SHARED.is_dir(), reason="no reference data beside the repository")
def test_the_facts_are_those_written_down():
    text = (SHARED / "FORMAT.md").read_text()
    facts = {
        name: md5 for md5, name in re.findall(r"^ {4}([0-9a-f]{32})  (\S+)$", text, re.MULTILINE)
    }
    [january] = [parts for parts in releases.KNOWN_PARTS if parts.md5s[0].startswith("343a")]
    ours = dict(zip(releases.PART_NAMES, january.md5s, strict=True))
    ours |= {name: digest.value for name, digest in releases.TOKENIZER_DIGESTS.items()}
    assert ours == facts
    for path in (SHARED / "tokenizer").iterdir():
        assert md5(path.read_bytes()) == facts[path.name]
