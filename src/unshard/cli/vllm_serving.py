"""vLLM in the place of this program: the work of `unshard serve --engine vllm`."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from unshard.errors import UsageError
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint
from unshard.library.hugging_face_folder import check_tokenizer, write_description
from unshard.vllm import LOAD_FORMAT

FLAGS: Mapping[str, str] = {
    "host": "--host",
    "port": "--port",
    "dtype": "--dtype",
    "model_name": "--served-model-name",
    "max_batch": "--max-num-seqs",
    "cpu_offload_gb": "--cpu-offload-gb",
    "enforce_eager": "--enforce-eager",
    "tp": "--tensor-parallel-size",
}
"""vLLM's flag for what is an option here too."""
DTYPES: Mapping[str, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
OTHER_TOKENIZER = ("--tokenizer", "--skip-tokenizer-init")


def serve_with_vllm(source: str, given: Mapping[str, object], flags: Sequence[str]) -> None:
    """Become vLLM's server of `source`; `given` are options of `serve`, `flags` vLLM's own, which
    win. Ends with the process, or not at all.

    Raises:
        UsageError: vLLM is not installed, an option has no meaning for it, or the tokenizer is
            missing.
        FormatError, CheckpointError: as from opening `source`.
    """
    if importlib.util.find_spec("vllm") is None:
        raise UsageError(
            "this needs the package vllm, which is not installed",
            hint="pip install 'unshard[vllm]', or a build of vLLM for this machine",
        )
    options = translated(given)
    checkpoint = open_checkpoint(source)
    if not any(flag.split("=")[0] in OTHER_TOKENIZER for flag in flags):
        check_tokenizer(checkpoint)
    folder = _described(checkpoint)
    extra = json.dumps({"source": os.path.abspath(source)})  # noqa: PTH100  (it may be a pattern)
    model = ["--model", str(folder), "--load-format", LOAD_FORMAT]
    loading = ["--model-loader-extra-config", extra]
    name = ["--served-model-name", checkpoint.folder.resolve().name]
    program = [sys.executable, "-m", "unshard.vllm.server", str(folder)]
    # In its place, not below it: signals and the exit code are vLLM's, and nothing is left over.
    os.execv(sys.executable, [*program, *model, *loading, *name, *options, *flags])  # noqa: S606


def translated(given: Mapping[str, object]) -> list[str]:
    """vLLM's flags for options of `serve`.

    Raises:
        UsageError: vLLM has nothing like it.
    """
    flags: list[str] = []
    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        if name not in FLAGS:
            raise UsageError(
                f"{option} is not an option of --engine vllm",
                hint="if vLLM has a flag of that name, write it behind --",
            )
        if name == "dtype" and value not in DTYPES:
            raise UsageError(
                f"--dtype {value} is not for --engine vllm", hint="vLLM has --quantization"
            )
        flags.append(FLAGS[name])
        if value is not True:
            flags.append(DTYPES[str(value)] if name == "dtype" else str(value))
    return flags


def _described(checkpoint: Checkpoint) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="unshard-vllm-"))
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, folder)
        write_description(checkpoint, folder)
        undo.pop_all()
    return folder
