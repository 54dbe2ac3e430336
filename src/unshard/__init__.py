"""unshard: from a presigned URL of sharded metaseq/OPT weights to a running API.

`open` gives a checkpoint's tensors lazily, `load_state_dict` one rank's in memory,
`to_transformers` a live model; see docs/library.md. They are imported when they are first asked
for, so that `import unshard` and every `--help` stay light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = [
    "LazyCheckpoint", "LazyTensor", "__version__", "load_state_dict", "open", "to_transformers",
]  # fmt: skip

if TYPE_CHECKING:
    from unshard.library.lazy_checkpoint import LazyCheckpoint, open  # noqa: A004
    from unshard.library.lazy_tensor import LazyTensor
    from unshard.library.state_dict import load_state_dict
    from unshard.library.to_transformers import to_transformers
else:
    _MODULES = {
        "LazyCheckpoint": "lazy_checkpoint",
        "LazyTensor": "lazy_tensor",
        "load_state_dict": "state_dict",
        "open": "lazy_checkpoint",
        "to_transformers": "to_transformers",
    }

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"unshard.library.{_MODULES[name]}"), name)

    def __dir__() -> list[str]:
        return __all__
