"""vLLM's plugin: the load format `unshard`, for OPT in any layout.

vLLM imports this in each of its processes, by the entry point `vllm.general_plugins`.
"""

from __future__ import annotations

import multiprocessing
import os

LOAD_FORMAT = "unshard"

SERVED = "UNSHARD_SERVES"
"""Set in the environment of the servers that `unshard serve` started."""


def register() -> None:
    """Make the load format known to the vLLM of this process."""
    from unshard.vllm.loader import register_loader  # noqa: PLC0415  (imports torch and vLLM)

    register_loader()
    if SERVED in os.environ and multiprocessing.parent_process() is not None:
        from unshard.parallel.place import end_with_parent  # noqa: PLC0415

        # vLLM's own processes wait for ever for a server that was killed.
        end_with_parent(os.getppid())
