"""The small part of vLLM that the plugin touches, made by hand."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest


class BaseModelLoader:
    """vLLM's: keeps what it was made with."""

    def __init__(self, load_config):
        self.load_config = load_config


@pytest.fixture
def loaders(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, type]]:
    """Load format -> loader class, as vLLM registers them."""
    found: dict[str, type] = {}

    def register_model_loader(load_format):
        def register(cls):
            assert issubclass(cls, BaseModelLoader)
            found[load_format] = cls
            return cls

        return register

    package = "vllm.model_executor.model_loader"
    contents = {
        "vllm": {},
        "vllm.model_executor": {},
        package: {"register_model_loader": register_model_loader},
        f"{package}.base_loader": {"BaseModelLoader": BaseModelLoader},
    }
    for name, members in contents.items():
        module = ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "unshard.vllm.loader", raising=False)
    yield found
    sys.modules.pop("unshard.vllm.loader", None)
