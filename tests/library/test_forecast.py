"""Forecasts are held against sums made another way, and against what the steps then do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from unshard.architectures.opt import KNOWN_MODELS, OPTConfig
from unshard.cli.main import main
from unshard.dtypes import BFLOAT16, FLOAT32
from unshard.errors import UsageError
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint
from unshard.library import fitting, machines
from unshard.library.fitting import (
    FORMATS,
    SIXTEEN_BIT,
    WeightFormat,
    cache_bytes_per_token,
    fit,
    largest_tp_size,
    rank_layer_bytes,
    rank_weight_bytes,
)
from unshard.library.forecast import forecast, forecast_link
from unshard.library.machines import MACHINES, Machine, this_machine
from unshard.library.precisions import PRECISIONS, Precision
from unshard.library.room import table_dtype, weight_bytes
from unshard.library.steps import reclaim_overlap_bytes, reshard_steps, serve_steps
from unshard.releases import OPT_175B as RELEASE
from unshard.testing.layouts import LAYOUTS
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint
from unshard.testing.tiny_hugging_face import HuggingFaceForm, write_tiny_hugging_face
from unshard.testing.tiny_metaseq import MetaseqForm
from unshard.testing.tiny_model import TINY, after_layers, before_layers, layer

ROOT = Path(__file__).parents[2]
DEMO_MODEL = ROOT / "src/unshard/demo_model"
OPT_175B = KNOWN_MODELS["OPT-175B"]
ROOT_UNIT, LAYER_UNIT = 102_432_768, 226_576_896
"""Elements of one of 8 parts' FSDP units, as the published files state them."""
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def sizes_of(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in open_checkpoint(folder).layout.files}


def test_a_rank_of_opt_175b_holds_what_a_published_part_holds() -> None:
    published = 2 * (ROOT_UNIT + 96 * LAYER_UNIT)
    assert rank_weight_bytes(OPT_175B, 8, SIXTEEN_BIT) == published


@pytest.mark.parametrize("tp_size", [1, 2, 4])
def test_ranks_hold_what_the_trainer_gives_them(tp_size: int) -> None:
    layers = [each for n in range(TINY.num_layers) for each in layer(TINY, n, fused=True)]
    model = [*before_layers(TINY), *layers, *after_layers(TINY)]
    local = [each.local_shape(tp_size) for each in model]
    num_bytes = 2 * sum(map(math.prod, local))
    assert rank_weight_bytes(TINY, tp_size, SIXTEEN_BIT) == num_bytes


def test_quantised_matrices_alone_shrink() -> None:
    whole, int8, int4 = (rank_weight_bytes(OPT_175B, 1, each) for each in FORMATS)
    matrices = 96 * 12 * 12288**2
    assert whole - int8 == matrices - matrices * 2 // 128
    assert whole - int4 == matrices * 3 // 2 - matrices * 4 // 128


def test_the_cache_is_what_the_engine_allocates() -> None:
    """For each further sequence of full length, whatever it keeps beside."""
    pytest.importorskip("torch")
    from unshard.engine.load import load_engine

    checkpoint = open_checkpoint(DEMO_MODEL)
    one, three = (load_engine(checkpoint, max_batch=count)._runner._cache for count in (1, 3))
    further = sum(tensor.nbytes for tensor in three.layers) - sum(
        each.nbytes for each in one.layers
    )
    per_token = cache_bytes_per_token(checkpoint.config, FLOAT32.itemsize_bytes)
    assert further == 2 * checkpoint.config.max_positions * per_token


def test_the_published_wisdom_on_machines() -> None:
    """350 GB of weights: 8 x 80 and 16 x 40 GB hold them, 8 x 32 GB only in 8 bits, and one
    card of 80 GB not even in 4."""
    held = {
        (each.machine.partition(" (")[0], each.weight_format)
        for each in fitting.fits(OPT_175B, MACHINES)
        if each.fits
    }
    boxes = {"16 x 40 GB": FORMATS, "8 x 80 GB": FORMATS, "8 x 32 GB": FORMATS[1:]}
    assert held == {(box, each.name) for box, formats in boxes.items() for each in formats} | {
        ("1 x 141 GB", "int4")
    }


def test_room_for_tokens_is_what_the_weights_leave() -> None:
    found = fit(OPT_175B, Machine("box", 8, 80_000_000_000), SIXTEEN_BIT)
    assert (found.num_devices, found.usable_bytes) == (8, 72_000_000_000)
    left = found.usable_bytes - found.weight_bytes
    assert found.cache_bytes_per_token == 2 * 96 * 12288 * 2 // 8
    assert found.cache_tokens == left // found.cache_bytes_per_token > 40_000


@pytest.mark.parametrize("gb", [24, 80, 141, 300])
@pytest.mark.parametrize("weight_format", FORMATS)
def test_layers_go_to_the_host_until_a_whole_sequence_has_room(
    gb: int, weight_format: WeightFormat
) -> None:
    found = fit(OPT_175B, Machine("box", 1, gb * 10**9), weight_format)
    layer = rank_layer_bytes(OPT_175B, 1, weight_format)
    sequence = OPT_175B.max_positions * found.cache_bytes_per_token

    def left(gib: int) -> int:
        away = min(gib * 2**30 // layer, 96)
        return found.usable_bytes - found.weight_bytes + max(away - 2, 0) * layer - sequence

    if found.fits or weight_format.name == "int8" or left(10**6) < 0:
        assert (found.cpu_offload_gb, found.host_bytes) == (None, None)
        return
    assert found.cpu_offload_gb is not None
    assert left(found.cpu_offload_gb) >= 0 > left(found.cpu_offload_gb - 1)
    assert found.host_bytes == found.cpu_offload_gb * 2**30 // layer * layer


def test_what_is_told_of_offload_is_what_the_engine_does() -> None:
    """Of the demo model on cards that lack little: one GiB holds all that there is."""
    torch = pytest.importorskip("torch")
    from unshard.engine.offload import layers_away

    checkpoint = open_checkpoint(DEMO_MODEL)
    for size in (1, 2):
        found = fit(checkpoint.config, Machine("box", size, 7_400_000 // size), SIXTEEN_BIT)
        assert found.cpu_offload_gb == 1
        cuda = torch.device("cuda")
        number = layers_away(checkpoint, PRECISIONS["bf16"], cuda, size, found.cpu_offload_gb)
        assert found.host_bytes is not None
        assert found.host_bytes // size == number * rank_layer_bytes(
            checkpoint.config, size, SIXTEEN_BIT
        )


def test_a_machine_that_layers_do_not_help_is_told_nothing() -> None:
    for machine in (Machine("small", 1, 10**9), Machine("cpu", 1, 10**9, is_cpu=True)):
        assert fit(OPT_175B, machine, SIXTEEN_BIT).cpu_offload_gb is None


def test_no_more_devices_than_the_model_splits_over() -> None:
    assert largest_tp_size(KNOWN_MODELS["OPT-125M"], 8) == 4  # 12 heads, 50272 rows
    assert largest_tp_size(OPT_175B, 16) == 16
    assert largest_tp_size(KNOWN_MODELS["OPT-66B"], 16) == 8


def test_this_machine_is_no_larger_than_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo = Path("/proc/meminfo").read_text().split()
    assert this_machine().device_bytes <= int(meminfo[1]) * 1024
    (tmp_path / "limit").write_text("123456789\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(machines, "_CGROUP_LIMITS", (tmp_path / "none", tmp_path / "limit"))
    assert this_machine().device_bytes == 123456789


@pytest.mark.parametrize("layout", ["demo", "raw", "one file", "safetensors", "bin, several files"])
def test_a_reshard_writes_what_was_forecast_to_the_byte(layout: str, tmp_path: Path) -> None:
    source = DEMO_MODEL
    if layout != "demo":
        source = tmp_path / "src"
        LAYOUTS[layout](source)
    before = sum(sizes_of(source).values())
    steps = reshard_steps(open_checkpoint(source), sizes_of(source), 2)
    beside = [step for step in steps if not step.name.endswith("--reclaim")]
    assert len(beside) == len(steps) - 2 == 2
    for step in beside:
        name, *options = step.name.split()
        target = tmp_path / step.name
        assert main([name, str(source), str(target), *options]) == 0
        written = [path for path in target.iterdir() if path.name != "unshard.json"]
        total = sum(path.stat().st_size for path in written)
        assert step.written_bytes == total
        assert step.peak_disk_bytes == step.final_disk_bytes == before + total


def test_a_reshard_in_place_ends_with_the_output_alone(tmp_path: Path) -> None:
    LAYOUTS["raw"](tmp_path / "src")
    step = reshard_steps(open_checkpoint(tmp_path / "src"), sizes_of(tmp_path / "src"))[1]
    assert step.name == "reshard --to safetensors --reclaim"
    arguments = ["--to", "safetensors", "--reclaim"]
    assert main(["reshard", str(tmp_path / "src"), str(tmp_path / "dst"), *arguments]) == 0
    left = [path for path in (tmp_path / "src").iterdir() if path.suffix == ".pt"]
    written = [path for path in (tmp_path / "dst").iterdir() if path.name != "unshard.json"]
    assert step.final_disk_bytes == sum(path.stat().st_size for path in (*left, *written))


def test_parts_that_the_model_does_not_split_into_are_refused(raw) -> None:
    checkpoint = open_checkpoint(raw[0])
    with pytest.raises(UsageError, match="3 tensor-parallel parts"):
        reshard_steps(checkpoint, sizes_of(raw[0]), 3)


def test_what_would_be_lost_is_not_reclaimed(tmp_path: Path) -> None:
    source = tmp_path / "src"
    config = replace(TINY, vocab_size=120_000)
    write_tiny_checkpoint(source, config, form=MetaseqForm(optimizer_state=True))
    names = [step.name for step in reshard_steps(open_checkpoint(source), sizes_of(source))]
    assert names == ["reshard --to safetensors", "reshard --to metaseq --tp 2"]
    command = ["reshard", str(source), str(tmp_path / "dst"), "--to", "safetensors", "--reclaim"]
    assert main(command) == 2


@pytest.mark.slow
def test_opt_175b(opt_175b: tuple[Checkpoint, int]) -> None:
    checkpoint, size = opt_175b
    sizes = dict.fromkeys(RELEASE.file_names, size)
    found = forecast(
        sizes,
        checkpoint,
        forecast_link(sum(sizes.values()), 10e6, None, NOW),
        tp_size=None,
        num_cores=8,
        free_memory_bytes=64 * 10**9,
        machines=MACHINES,
    )
    assert found.model is not None
    assert found.link is not None
    assert found.link.elapsed_s == pytest.approx(9.7 * 3600, rel=0.01)
    # Replicated tensors are stored by each of the 8 parts.
    copied = 7 * (2050 * 12288 + 2 * 12288 + 96 * 6 * 12288)
    assert found.model.num_parameters == 8 * (ROOT_UNIT + 96 * LAYER_UNIT) - copied
    steps = {step.name: step for step in found.steps}
    beside = steps["reshard --to safetensors"]
    in_place = steps["reshard --to safetensors --reclaim"]
    assert beside.written_bytes == pytest.approx(2 * found.model.num_parameters, rel=1e-5)
    assert beside.peak_disk_bytes > 690e9
    assert in_place.peak_disk_bytes < 1.03 * found.num_bytes
    assert steps["serve --dtype bf16"].memory_bytes > 349e9
    assert steps["serve --dtype bf16"].weights == "refused"


def test_what_lies_on_the_disk_twice_is_two_units(raw) -> None:
    checkpoint, sizes = open_checkpoint(raw[0]), sizes_of(raw[0])
    largest = max(record.length for record in checkpoint.stored)
    twice = reclaim_overlap_bytes(checkpoint, sizes) - 2**28
    assert twice == 2 * largest * len(sizes)


def test_serving_takes_the_weights_and_a_full_cache(raw) -> None:
    checkpoint = open_checkpoint(raw[0])
    *_, bf16, fp32 = serve_steps(checkpoint, sizes_of(raw[0]), 10**9)
    parameters = sum(array.size for name, array in raw[1].items() if "version" not in name)
    assert fp32.memory_bytes - bf16.memory_bytes == 2 * parameters
    cache = 8 * 11 * 2 * 2 * 16 * FLOAT32.itemsize_bytes
    assert bf16.memory_bytes == BFLOAT16.itemsize_bytes * parameters + cache
    assert (bf16.weights, fp32.weights) == ("memory", "memory")


def test_weights_beyond_the_memory_are_mapped_or_refused_as_loading_does(tmp_path: Path) -> None:
    config = replace(TINY, vocab_size=4096)
    write_tiny_hugging_face(tmp_path, config, form=HuggingFaceForm(BFLOAT16))
    checkpoint = open_checkpoint(tmp_path)

    def told(free: int) -> list[tuple[str | None, int]]:
        steps = serve_steps(checkpoint, sizes_of(tmp_path), free)
        return [(step.weights, step.memory_bytes) for step in steps[2:]]

    (_, most), (_, fp32) = told(10**9)
    num_bytes = fp32 - most  # of the weights in bf16
    vectors = sum(
        2 * tensor.num_elements for tensor in checkpoint.index.values() if len(tensor.shape) == 1
    )
    assert told(2 * num_bytes) == [("memory", most), ("memory", fp32)]
    assert told(2 * num_bytes - 1) == [("memory", most), ("refused", fp32)]
    mapped = most - num_bytes + vectors
    assert told(num_bytes - 1) == told(vectors) == [("mapped", mapped), ("refused", fp32)]
    assert told(vectors - 1) == [("refused", most), ("refused", fp32)]


@pytest.mark.parametrize("how", ["", "off"])
@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
@pytest.mark.parametrize("embedding_size", [128, 64])
def test_weights_take_what_the_model_allocates(
    precision: Precision,
    embedding_size: int,
    how: str,
    tmp_path: Path,
    switch: Callable[[str | None], None],
) -> None:
    pytest.importorskip("torch")
    from unshard.execute.model_sink import TORCH_DTYPES
    from unshard.kernels.library import kernels
    from unshard.models.opt import OPTModel

    switch(how)
    is_wide = embedding_size == 128
    config = OPTConfig(2, 128, 2, 256, 512, 62, embedding_size, pre_norm=is_wide)
    write_tiny_hugging_face(tmp_path, config)
    checkpoint = open_checkpoint(tmp_path)
    dtype, table = TORCH_DTYPES[precision.exact], TORCH_DTYPES[table_dtype(checkpoint, precision)]
    model = OPTModel(config, dtype, matrix_bits=precision.matrix_bits, table_dtype=table)
    held = {tensor.data_ptr(): tensor.nbytes for tensor in model.tensors()}
    # The kernel of 8 bits has biases of its own, and one of zeros where there is none.
    biases = 2 * 7 * 128 + 512 + (0 if is_wide else 128 + 64)
    has_kernels = kernels() is not None
    beside = 4 * biases if precision.matrix_bits == 8 and has_kernels else 0
    in_memory = precision.held(by_native_kernels=has_kernels)
    assert sum(weight_bytes(checkpoint, in_memory).values()) == (sum(held.values()) - beside)


def test_a_download_lies_on_the_disk_once() -> None:
    sizes = {"a": 700, "b": 42}
    link = forecast_link(742, 7.42, None, NOW)
    found = forecast(
        sizes, None, link, tp_size=None, num_cores=2, free_memory_bytes=1, machines=MACHINES
    )
    assert (found.num_files, found.num_bytes, found.largest_file_bytes) == (2, 742, 700)
    first, verify = found.steps
    assert first.written_bytes == first.peak_disk_bytes == first.final_disk_bytes == 742
    assert first.elapsed_s == pytest.approx(100)
    assert (verify.written_bytes, verify.peak_disk_bytes) == (0, 742)
    assert (found.model, found.machines) == (None, ())


def test_a_link_that_ends_first() -> None:
    end = NOW + timedelta(hours=22)
    slow = forecast_link(31 * 3600 * 10**6, 1e6, end, NOW)
    assert (slow.elapsed_s, slow.link_left_s) == (31 * 3600, 22 * 3600)
    assert slow.ends_in_time is False
    assert slow.needed_bytes_per_s == pytest.approx(31 / 22 * 1e6)
    assert forecast_link(21 * 3600 * 10**6, 1e6, end, NOW).ends_in_time is True
    assert forecast_link(1, None, end, NOW).ends_in_time is None
    assert forecast_link(1, 1e6, None, NOW).ends_in_time is None
    dead = forecast_link(1, 1e6, NOW - timedelta(hours=1), NOW)
    assert (dead.link_left_s, dead.needed_bytes_per_s, dead.ends_in_time) == (0, None, False)
