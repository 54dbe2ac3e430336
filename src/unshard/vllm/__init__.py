"""vLLM's plugin: the load format `unshard`, for OPT in any layout.

vLLM imports this in each of its processes, by the entry point `vllm.general_plugins`.
"""

from __future__ import annotations

LOAD_FORMAT = "unshard"


def register() -> None:
    """Make the load format known to the vLLM of this process."""
    from unshard.vllm.loader import register_loader  # noqa: PLC0415  (imports torch and vLLM)

    register_loader()
