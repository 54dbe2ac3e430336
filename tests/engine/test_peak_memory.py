"""Loading takes the weights as they will be used, and little beside them."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from unshard.architectures.opt import OPTConfig
from unshard.dtypes import FLOAT16
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint
from unshard.testing.tiny_hugging_face import write_tiny_hugging_face

CONFIG = OPTConfig(16, 1024, 16, 4096, 50272, 2048, 1024)
MATRICES, EMBEDDINGS = 16 * 12 * 1024**2, (50272 + 2050) * 1024
WEIGHT_BYTES = {
    "fp32": 4 * (MATRICES + EMBEDDINGS),
    "bf16": 2 * (MATRICES + EMBEDDINGS),
    # The output projection is rounded apart from the table of tokens, which stays in fp16.
    "int8": MATRICES + (1 + 2) * 50272 * 1024 + 4 * 2050 * 1024,
    "int4": MATRICES * 17 // 32 + 2 * EMBEDDINGS,
}

MEASURED = """
import re, sys
from unshard.library.precisions import PRECISIONS
from unshard.engine.load import load_engine
from unshard.index.build import open_checkpoint
engine = load_engine(open_checkpoint(sys.argv[1]), precision=PRECISIONS[sys.argv[2]], max_batch=1)
status = open("/proc/self/status").read()  # ru_maxrss would count the parent's before exec
print(int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) * 1024)
"""


@pytest.fixture(scope="session")
def sources(tmp_path_factory, demo_model):
    """The same 510 MB of fp16 as safetensors, and as raw shards of 2 parts."""
    root = tmp_path_factory.mktemp("half-a-gigabyte")
    write_tiny_hugging_face(root / "safetensors", CONFIG)
    write_tiny_checkpoint(root / "raw", CONFIG, tp_size=2, fsdp_size=8, dtype=FLOAT16)
    for name in ("safetensors", "raw"):
        for file in ("gpt2-vocab.json", "gpt2-merges.txt"):
            shutil.copy(demo_model / file, root / name / file)
    yield root
    shutil.rmtree(root)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["safetensors", "raw"])
@pytest.mark.parametrize("dtype", WEIGHT_BYTES)
def test_the_peak_is_the_weights_and_300_mb(layout, dtype, sources):
    """Of the whole process: some 230 MB are the interpreter and its packages."""
    command = [sys.executable, "-c", MEASURED, str(sources / layout), dtype]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    peak = int(done.stdout)
    assert WEIGHT_BYTES[dtype] < peak < WEIGHT_BYTES[dtype] + 300_000_000
