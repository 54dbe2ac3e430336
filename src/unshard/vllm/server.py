"""vLLM's OpenAI server in this process, on a folder that goes with it.

`python -m unshard.vllm.server FOLDER FLAG…`; whatever vLLM's server ends with, this ends with.
"""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import sys
from types import FrameType

from unshard.vllm import SERVED

SERVER = "vllm.entrypoints.openai.api_server"
"""Older than vLLM's own command, and in the builds whose package has another name too, where that
command does not start."""


def main(folder: str, flags: list[str]) -> None:
    """Runs the server until it ends, then removes `folder`."""
    signal.signal(signal.SIGTERM, _end)  # until vLLM has its own handler
    os.environ[SERVED] = "1"
    sys.argv = [SERVER, *flags]
    try:
        runpy.run_module(SERVER, run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    sys.exit(128 + number)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
