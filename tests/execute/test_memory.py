"""Memory stays what was asked for, whatever the model's size."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from unshard.errors import UsageError
from unshard.execute.workers import BASE_BYTES, BLOCK_BYTES, BLOCKS_PER_WORKER, block_bytes
from unshard.testing.tiny_checkpoint import TINY, write_tiny_checkpoint

MEASURED = """
import re, sys
from unshard.cli.main import main
assert main(["reshard", sys.argv[1], sys.argv[2], "--to", "safetensors", "--workers", "2"]) == 0
status = open("/proc/self/status").read()  # ru_maxrss would count the parent's before exec
print(int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) * 1024)
"""


@pytest.mark.parametrize("workers", [1, 2, 16])
def test_blocks_fit_the_budget(workers: int) -> None:
    for memory_bytes in (256_000_000, 120_000_000):
        size = block_bytes(memory_bytes, workers)
        assert BASE_BYTES + BLOCKS_PER_WORKER * workers * size <= memory_bytes
        assert size <= BLOCK_BYTES


def test_too_little_memory_is_said() -> None:
    with pytest.raises(UsageError, match="too little for 4 workers") as caught:
        block_bytes(50_000_000, 4)
    assert caught.value.hint == "give at least 98MB, or fewer workers"
    assert block_bytes(98_000_000, 4)


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    peaks = []
    for layers in (2, 40):
        config = replace(TINY, num_layers=layers, hidden_size=512, embedding_size=512, ffn_dim=2048)
        raw = tmp_path / f"raw{layers}"
        write_tiny_checkpoint(raw, config, tp_size=2, fsdp_size=8)
        command = [sys.executable, "-c", MEASURED, str(raw), str(tmp_path / f"out{layers}")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks.append(int(done.stdout.split()[-1]))
    small, large = peaks
    assert large < 120_000_000
    assert large - small < 15_000_000  # the model itself grew by 240 MB
