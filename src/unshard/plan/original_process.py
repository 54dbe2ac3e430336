"""What metaseq's Python process did to a file's values between `torch.load` and `torch.save`.

A pickle writes a string once and refers back to it wherever the same object, not merely an
equal one, comes again. So the bytes of a reshard depend on which strings were one object in
the process that did it. Loading keeps most objects as the file shares them, and changes:

* attribute names of objects become interned strings, one object for all equal names;
* a name that the process had interned already stops being shared with the file's other uses;
* numpy's scalars get the element type that numpy itself keeps, not the file's copy of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from unshard.formats.records import Global, PersistentId, PickledObject
from unshard.formats.torch_release import TORCH_2_13, TorchRelease
from unshard.plan.torch_archive import CPU, STORAGE

INTERNED = (
    "_name", "arch", "batch_size", "bf16", "broadcast_buffers", "bucket_cap_mb",
    "buffer_size", "common", "context_window", "data", "dataset", "device_id", "dropout",
    "find_unused_parameters", "fp16", "help", "input", "interactive", "lr", "lr_scheduler",
    "model", "num_shards", "num_workers", "optimization", "optimizer", "path", "profile",
    "quiet", "seed", "task", "temperature", "weight_decay", "world_size", "element_type",
    "flags", "flags_root", "key", "key_type", "object_type", "optional", "ref_type",
    "resolver_cache",
)  # fmt: skip
"""Training arguments, and OmegaConf's own attributes, that are also names in the source of
what the original scripts import. Found by asking such a process (`sys.intern`)."""
INTERNED_LATER = {TORCH_2_13: ("checkpoint", "log_format", "shard_id")}
"""The same for names that only some releases use."""

SETS_ATTRIBUTES = frozenset({"Metadata", "ContainerMetadata"})
"""The OmegaConf classes that leave it to pickle to set their attributes, as a Namespace does."""
BUILT_IN_KINDS = frozenset("biufc")
"""numpy's letters for element types that exist once in a process."""


class OriginalProcess:
    """The interned strings of one run of an original script, whose source has `words`, under
    one torch release."""

    def __init__(self, release: TorchRelease, words: Iterable[str]) -> None:
        known = (*INTERNED, *INTERNED_LATER.get(release, ()), *words, STORAGE, CPU)
        self._interned: dict[str, str] = {name: name for name in known}
        self._numpy_core = release.numpy_core

    def name(self, text: str) -> str:
        """The one object for the interned string `text`."""
        return self._interned.setdefault(text, text)

    def load(self, content: Any) -> Any:
        """A copy of a decoded pickle that shares its values as they were shared once loaded."""
        return _Loading(self, self._numpy_core).value(content)


class _Loading:
    def __init__(self, process: OriginalProcess, numpy_core: str) -> None:
        self._process = process
        self._numpy_core = numpy_core
        self._loaded: dict[int, Any] = {}
        self._element_types: dict[str, PickledObject] = {}

    def value(self, value: Any) -> Any:
        if isinstance(value, str | int | float | bytes | None):
            return value
        if id(value) not in self._loaded:
            self._load(value)
        return self._loaded[id(value)]

    def _load(self, value: Any) -> None:
        """Copies a value, in the order in which the pickle builds it: parts come first, but an
        object is there before the state that may refer back to it."""
        loaded: Any = value
        match value:
            case Global():
                loaded = self._renamed(value)
            case tuple():
                parts = tuple(self.value(part) for part in value)
                same = all(new is old for new, old in zip(parts, value, strict=True))
                loaded = value if same else parts
            case list():
                loaded = self._loaded[id(value)] = []
                loaded.extend(self.value(part) for part in value)
            case dict():
                loaded = self._loaded[id(value)] = {}
                loaded.update((self.value(key), self.value(each)) for key, each in value.items())
            case PersistentId():
                loaded = PersistentId(self.value(value.value))
            case PickledObject():
                loaded = self._object(value)
        self._loaded[id(value)] = loaded

    def _renamed(self, name: Global) -> Global:
        package, _, rest = name.module.rpartition(".")
        if package in ("numpy.core", "numpy._core"):
            return Global(f"{self._numpy_core}.{rest}", name.name)
        return name

    def _object(self, value: PickledObject) -> PickledObject:
        loaded = PickledObject(
            self.value(value.constructor),
            self.value(value.args),
            by_new=value.by_new,
            has_state=value.has_state,
        )
        match loaded.args:
            case (said, *rest) if loaded.is_call_of(f"{self._numpy_core}.multiarray", "scalar"):
                loaded.args = (self._element_type(said), *rest)
        self._loaded[id(value)] = loaded
        loaded.items = self.value(value.items)
        loaded.entries = self.value(value.entries)
        loaded.state = self.value(value.state)
        if isinstance(loaded.state, dict) and _sets_attributes(loaded):
            loaded.state = {
                self._process.name(key) if isinstance(key, str) else key: each
                for key, each in loaded.state.items()
            }
        return loaded

    def _element_type(self, said: Any) -> Any:
        """numpy's own object for a scalar's element type."""
        match said:
            case PickledObject(args=(str(code), *rest), state=tuple(state)) if (
                code[:1] in BUILT_IN_KINDS
            ):
                if code not in self._element_types:  # made anew, down to its strings and tuples
                    own = PickledObject(said.constructor, (f"{code[:1]}{code[1:]}", *rest))
                    own.state, own.has_state = (*state,), True
                    self._element_types[code] = own
                return self._element_types[code]
        return said


def _sets_attributes(value: PickledObject) -> bool:
    """Whether pickle itself sets the object's attributes, and so interns their names."""
    made_by = value.constructor
    if isinstance(made_by, Global) and made_by.module.partition(".")[0] == "omegaconf":
        return made_by.name in SETS_ATTRIBUTES
    return True
