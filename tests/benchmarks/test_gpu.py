"""The benchmark of devices runs on this one's CPU: right logits, shares of measured ceilings."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from unshard.library.precisions import PRECISIONS

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_gpu", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8", "int4"])
def test_a_quick_run_writes_its_figures(dtype: str, tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), "--device", "cpu", "--shape", "tiny", "--quick"]
    command += ["--dtype", dtype, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (written,) = tmp_path.glob(f"gpu-*-tiny-{dtype}-*.json")
    found = json.loads(written.read_text())
    assert found == json.loads(done.stdout)
    assert found["is_right"]
    assert found["graphs"] is None  # a CPU has none
    assert all(value > 0 for value in found["ceilings"].values())
    assert [each["name"] for each in found["figures"]] == [
        "decode, batch 1", "decode, batch 8", "prompt of 48",
    ]  # fmt: skip
    assert all(each["tokens_per_s"] > 0 < each["share_of_ceiling"] for each in found["figures"])
    assert {"card", "torch"} <= set(found["machine"])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8", "int4"])
def test_one_wrong_tensor_is_noticed(gpu: ModuleType, dtype: str) -> None:
    device = torch.device("cpu")
    config = gpu.shape_of("tiny", None)
    precision = PRECISIONS[dtype]
    runner = gpu.runner_of(*gpu.build(config, precision, device, gpu.QUICK))

    class Wrong(gpu.Weights):
        def exact(self, name: str) -> torch.Tensor:
            right = super().exact(name)
            return right.roll(1, 0) if name.endswith("layers.1.self_attn.k_proj.weight") else right

    with torch.inference_mode():
        right = gpu.logits_error(runner, gpu.Weights(config, precision, device), device)
        wrong = gpu.logits_error(runner, Wrong(config, precision, device), device)
    assert right < gpu.MOST_ERROR[dtype] < wrong


@pytest.mark.slow
@pytest.mark.parametrize(("device", "dtype"), [("cpu", "fp16"), ("cuda", "int8")])
def test_what_the_engine_does_not_compute_is_refused(device: str, dtype: str) -> None:
    command = [sys.executable, str(PROGRAM), "--device", device, "--dtype", dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"does not compute {dtype} on {device}" in done.stderr


def test_the_whole_model_has_as_many_parameters_as_its_name_says(gpu: ModuleType) -> None:
    """Without the embeddings."""
    for name in ("1.3b", "2.7b", "6.7b", "13b", "30b", "66b", "175b"):
        billions = gpu.matrix_parameters(gpu.shape_of(name, None)) / 1e9
        assert billions == pytest.approx(float(name[:-1]), rel=0.1)
