"""Which names a checkpoint's pickle may mention at all.

Nothing is ever imported or called, so this list is no line of defence but an alarm: a
checkpoint has no reason to mention `os.system`, and a file that does was made to do harm
to other readers. Deny lists keep losing (picklescan, fickling); this is an allow list.
"""

from __future__ import annotations

from unshard.dtypes import BY_TORCH_STORAGE
from unshard.formats.records import Global

PLAIN_TYPES = (
    "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list",
    "object", "set", "slice", "str", "tuple", "type",
)  # fmt: skip
"""Types that OmegaConf's metadata names; `type` only as `type(None)`."""

EXACT = {
    "argparse": {"Namespace"},
    "builtins": {*PLAIN_TYPES, "range"},
    "__builtin__": {*PLAIN_TYPES, "long", "unicode", "xrange"},
    "collections": {"OrderedDict", "defaultdict", "Counter", "deque"},
    "copyreg": {"_reconstructor"},
    "copy_reg": {"_reconstructor"},
    "_codecs": {"encode"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "pathlib": {"Path", "PosixPath", "PurePosixPath"},
    "typing": {"Any", "Dict", "List", "Optional", "Tuple", "Union"},
    "numpy": {"dtype", "ndarray", "float64", "float32", "int64", "int32", "bool_"},
    "numpy.core.multiarray": {"scalar", "_reconstruct"},
    "numpy._core.multiarray": {"scalar", "_reconstruct"},
    "numpy.core.numeric": {"_frombuffer"},
    "numpy._core.numeric": {"_frombuffer"},
    "torch._utils": {
        "_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3",
        "_rebuild_parameter", "_rebuild_parameter_with_state",
    },
    "torch._tensor": {"_rebuild_from_type_v2"},
    "torch.nn.parameter": {"Parameter"},
    "torch": {
        "Size", "Tensor", "device", "float16", "float32", "float64", "bfloat16", "int8", "int16",
        "int32", "int64", "uint8", "bool", "complex64", "complex128",
        "ComplexFloatStorage", "ComplexDoubleStorage", "UntypedStorage",
    } | set(BY_TORCH_STORAGE),
    "torch.storage": {"TypedStorage", "UntypedStorage"},
}  # fmt: skip

PACKAGES = frozenset(
    {"omegaconf", "metaseq", "metaseq_internal", "fairseq", "fairscale", "megatron"}
)
"""Packages whose classes appear in a trainer's own state (cfg, train_iterator)."""


def is_allowed(name: Global) -> bool:
    """Whether a checkpoint may mention `name`; dotted names reach into modules, so never."""
    if "." in name.name:
        return False
    if name.module.partition(".")[0] in PACKAGES:
        return True
    return name.name in EXACT.get(name.module, ())
