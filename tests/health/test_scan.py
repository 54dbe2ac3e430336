"""What is planted in a raw FSDP x tensor-parallel checkpoint is found, at the byte."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from damage import CONFIG, element_range, overwrite, plant, read_tensor, scan, stored_at

from unshard.architectures.opt import weight_names
from unshard.dtypes import FLOAT32
from unshard.errors import FormatError
from unshard.execute.run import run_plan
from unshard.health.findings import MAX_PLACES, Finding
from unshard.health.scan import scan_health
from unshard.index.build import open_checkpoint
from unshard.plan.safetensors_target import plan_safetensors
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint

DEMO_MODEL = Path(__file__).parents[2] / "src/unshard/demo_model"
FC2 = "decoder.layers.3.fc2.weight"


def by_kind(findings: tuple[Finding, ...]) -> dict[str, Finding]:
    return {finding.kind: finding for finding in findings}


def test_healthy_checkpoints_have_no_findings(folder: Path, tmp_path: Path) -> None:
    run_plan(plan_safetensors(open_checkpoint(folder)), tmp_path / "hf")
    for source in (folder, tmp_path / "hf", DEMO_MODEL):
        report = scan(source)
        assert report.findings == ()
        assert report.is_healthy
        assert report.num_bytes_again == 0
        assert [each.name for each in report.tensors] == weight_names(open_checkpoint(source).index)


def test_every_byte_is_read_once(folder: Path) -> None:
    index = open_checkpoint(folder).index
    ledger = index.ledger
    version = index["decoder.version"]
    not_weights = version.num_bytes * (1 + len(version.replicas))
    assert scan(folder).num_bytes == ledger.unique_bytes + ledger.replica_bytes - not_weights


def test_eighteen_bad_values_of_one_shard(folder: Path) -> None:
    """metaseq#122: 18 corrupt fp16 values in one layer of one shard."""
    size = open_checkpoint(folder).index[FC2].chunks[1].ref.num_elements
    elements = np.random.default_rng(0).choice(size, 18, replace=False).tolist()
    values = np.geomspace(30, 60000, 18).astype(np.float16)
    planted = plant(folder, FC2, 1, dict(zip(elements, values.view("<u2").tolist(), strict=True)))
    [finding] = scan(folder).findings
    assert (finding.severity, finding.kind, finding.tensor) == ("corrupt", "outlier", FC2)
    assert finding.count == 18
    assert {(place.path, place.byte_offset) for place in finding.places} == planted
    tensor = read_tensor(folder, FC2)
    for place in finding.places:
        assert place.value == tensor[place.index] == stored_at(place)


@pytest.mark.parametrize("chunk", [0, 1])
@pytest.mark.parametrize(
    "name", [FC2, "decoder.layers.0.self_attn.q_proj.weight", "decoder.embed_tokens.weight"]
)
def test_nan_and_inf_have_coordinates(folder: Path, name: str, chunk: int) -> None:
    """Split by columns, fused and split by rows, and in the root unit."""
    planted = plant(folder, name, chunk, {5: 0x7E00, 700: 0xFC00, 701: 0xFFFF})
    report = scan(folder)
    assert not report.is_healthy
    found = by_kind(report.findings)
    assert found.keys() == {"nan", "infinite"}
    assert (found["nan"].count, found["infinite"].count) == (2, 1)
    places = [place for finding in report.findings for place in finding.places]
    assert {(place.path, place.byte_offset) for place in places} == planted
    tensor = read_tensor(folder, name)
    for place in places:
        np.testing.assert_equal(tensor[place.index], np.float16(place.value))


def test_a_block_with_one_impossible_value_shows_the_merely_odd_ones(folder: Path) -> None:
    """1.5 alone is no finding (std 0.05); beside 5000 it is."""
    odd = int(np.float16(1.5).view("<u2"))
    plant(folder, FC2, 0, {9: odd})
    assert scan(folder).findings == ()
    plant(folder, FC2, 0, {1000: int(np.float16(5000).view("<u2"))})
    [finding] = scan(folder).findings
    assert [place.value for place in finding.places] == [1.5, 5000]


def test_random_bits_are_found_when_they_look_odd(folder: Path) -> None:
    """Of 18 random fp16 patterns about half are far beyond a Gaussian of std 0.05; the others
    look like any weight. The exact rate is in docs/health.md."""
    size = open_checkpoint(folder).index[FC2].chunks[0].ref.num_elements
    rates = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        elements = rng.choice(size, 18, replace=False).tolist()
        bits = rng.integers(0, 1 << 16, 18).tolist()
        planted = plant(folder, FC2, 0, dict(zip(elements, bits, strict=True)))
        report = scan(folder)
        found = {(p.path, p.byte_offset) for each in report.findings for p in each.places}
        assert found <= planted
        rates.append(len(found))
        write_tiny_checkpoint(folder, CONFIG, tp_size=2, fsdp_size=3)
    assert min(rates) >= 4
    assert 8 <= np.mean(rates) <= 14


def test_an_unusual_value_is_shown_and_no_verdict(folder: Path) -> None:
    bias = "decoder.layers.2.self_attn.q_proj.bias"
    [planted] = plant(folder, bias, 0, {3: int(np.float16(12).view("<u2"))})
    report = scan(folder)
    [finding] = report.findings
    assert (finding.severity, finding.kind, finding.tensor) == ("suspicious", "outlier", bias)
    assert [(place.path, place.byte_offset) for place in finding.places] == [planted]
    assert report.is_healthy


def test_copies_that_disagree_name_both_files_and_the_scan_goes_on(folder: Path) -> None:
    tensor = open_checkpoint(folder).index["decoder.layers.2.fc2.bias"]
    where = element_range(tensor.replicas[0], 7)
    overwrite(where, np.float16(0.25).tobytes())
    plant(folder, FC2, 0, {3: 0x7E00})
    report = scan(folder)
    differ = by_kind(report.findings)["copies differ"]
    assert by_kind(report.findings)["nan"].tensor == FC2
    assert (differ.severity, differ.tensor, differ.count) == ("corrupt", tensor.name, 1)
    mine, theirs = differ.places
    assert (theirs.path, theirs.byte_offset) == (where.path, where.offset)
    assert mine.path != theirs.path
    assert mine.index == theirs.index == (7,)
    assert (stored_at(mine), stored_at(theirs)) == (mine.value, 0.25)
    assert Path(mine.path).name in differ.what
    assert Path(theirs.path).name in differ.what


def test_a_file_that_was_not_written_to_its_end(folder: Path) -> None:
    """One file's piece of a matrix is zeros: found by its whole pages."""
    ref = open_checkpoint(folder).index["decoder.layers.1.fc1.weight"].chunks[1].ref
    last = max(ref.ranges, key=lambda piece: piece.length)
    with Path(last.path).open("r+b") as file:
        file.seek(last.offset)
        file.write(bytes(last.length))
    report = scan(folder)
    [finding] = report.findings
    assert (finding.severity, finding.kind) == ("corrupt", "constant")
    assert finding.tensor == "decoder.layers.1.fc1.weight"
    assert 4096 <= finding.count * 2 <= last.length
    [place] = finding.places
    assert place.path == last.path
    assert last.offset <= place.byte_offset < last.offset + 4096
    assert place.value == stored_at(place) == 0


def test_zeros_that_every_layer_has_are_no_finding(folder: Path) -> None:
    """A fresh model's biases are all zero; one lost bias among trained ones is worth a look."""
    index = open_checkpoint(folder).index
    for layer in range(CONFIG.num_layers):
        for ref in (chunk.ref for chunk in index[f"decoder.layers.{layer}.fc1.bias"].chunks):
            for piece in ref.ranges:
                overwrite(piece, bytes(piece.length))
    assert scan(folder).findings == ()
    for piece in (
        p for c in index["decoder.layers.4.self_attn.k_proj.bias"].chunks for p in c.ref.ranges
    ):
        overwrite(piece, bytes(piece.length))
    report = scan(folder)
    [finding] = report.findings
    assert (finding.severity, finding.kind) == ("suspicious", "constant")
    assert report.is_healthy


def test_fp32_finds_the_same(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path, CONFIG, tp_size=2, fsdp_size=3, dtype=FLOAT32)
    assert scan(tmp_path).findings == ()
    ref = open_checkpoint(tmp_path).index[FC2].chunks[1].ref
    signalling_nan = 0x7F800001  # the upper 16 bits alone would say Inf
    planted = {10: signalling_nan, 20: 0xFF800000, 30: int(np.float32(-1e30).view("<u4"))}
    for element, pattern in planted.items():
        overwrite(element_range(ref, element), pattern.to_bytes(4, "little"))
    found = by_kind(scan(tmp_path).findings)
    assert found.keys() == {"nan", "infinite", "outlier"}
    for kind, element in (("nan", 10), ("infinite", 20), ("outlier", 30)):
        [place] = found[kind].places
        where = element_range(ref, element)
        assert (place.path, place.byte_offset) == (where.path, where.offset)
        np.testing.assert_equal(read_tensor(tmp_path, FC2)[place.index], np.float32(place.value))


def test_a_file_of_garbage_is_bounded(folder: Path) -> None:
    """Every count is right, and the coordinates stop at a limit."""
    ref = open_checkpoint(folder).index["decoder.layers.0.fc1.weight"].chunks[0].ref
    for piece in ref.ranges:
        overwrite(piece, b"\xff" * piece.length)
    found = by_kind(scan(folder).findings)
    assert found["nan"].count == ref.num_elements > MAX_PLACES
    assert len(found["nan"].places) == MAX_PLACES


def test_the_number_of_workers_changes_nothing(folder: Path) -> None:
    plant(folder, FC2, 0, {1: 0x7E00, 2: 0x7000})
    reports = [scan(folder, workers=workers) for workers in (1, 2, 5)]
    assert repr(reports[0]) == repr(reports[1]) == repr(reports[2])  # NaN is not equal to itself


def test_a_file_that_shrank_is_an_error(folder: Path) -> None:
    index = open_checkpoint(folder).index
    path = folder / "checkpoint_last-model_part-1-shard2.pt"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(FormatError, match="part-1-shard2"):
        scan_health(str(folder), index)
