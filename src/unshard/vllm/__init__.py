"""vLLM's plugin: the load format `unshard`, for OPT in any layout."""

from __future__ import annotations

LOAD_FORMAT = "unshard"

SERVED = "UNSHARD_SERVES"
"""Set in the environment of the servers that `unshard serve` started."""
