"""Tensors that lie about their storage, in an archive that is otherwise sound."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from archives import archive
from opcodes import (
    NAMESPACE,
    ORDERED_DICT,
    get,
    integer,
    pickle,
    put,
    shared,
    storage,
    tensor,
    text,
)
from refusal import Refusal

from unshard.formats.torch_zip import read_torch_file, tensors_of


def signed(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


TENSORS: dict[str, tuple[bytes, str]] = {
    "longer than its storage": (tensor(size=b"K\x05\x85"), "reaches past"),
    "one element too far": (tensor(offset=b"K\x01"), "reaches past"),
    "empty, but far away": (tensor(size=b"K\x00\x85", offset=b"K\x05"), "reaches past"),
    "scalar past the end": (tensor(size=b")", stride=b")", offset=b"K\x04"), "reaches past"),
    "negative offset": (tensor(offset=signed(-1)), "reaches past"),
    "huge negative offset": (tensor(offset=integer(-(2**63))), "reaches past"),
    "offset that overflows": (tensor(offset=integer(2**62)), "reaches past"),
    "offset of 64 bytes": (tensor(offset=integer(2**500)), "reaches past"),
    "offset that is no number": (tensor(offset=text("0")), "record is malformed"),
    "offset that is a float": (tensor(offset=b"G" + bytes(8)), "record is malformed"),
    "negative stride": (tensor(stride=signed(-1) + b"\x85"), "stride is malformed"),
    "zero stride": (tensor(stride=b"K\x00\x85"), "not row-major"),
    "huge stride": (tensor(stride=integer(2**62) + b"\x85"), "not row-major"),
    "column-major": (tensor(b"K\x02K\x02\x86", b"K\x01K\x02\x86"), "not row-major"),
    "overlapping rows": (tensor(b"K\x02K\x03\x86", b"K\x01K\x01\x86"), "not row-major"),
    "negative size": (tensor(size=signed(-4) + b"\x85"), "shape or stride is malformed"),
    "two negative sizes": (tensor(signed(-2) * 2 + b"\x86", b"K\x02K\x01\x86"), "malformed"),
    "huge size": (tensor(size=integer(2**62) + b"\x85"), "reaches past"),
    "size of 65 bits": (tensor(size=integer(2**64) + b"\x85"), "malformed"),
    "sizes whose product overflows to 4": (
        tensor(
            integer(2**62) + b"K\x04" + integer(2**62) + b"\x87",
            integer(2**64) + integer(2**62) + b"K\x01\x87",
        ),
        "malformed",
    ),
    "sizes whose bytes overflow to 16": (
        tensor(integer(2**62) + b"K\x05\x86", b"K\x05K\x01\x86"), "reaches past",
    ),
    "65 dimensions": (
        tensor(b"(" + b"K\x01" * 65 + b"t", b"(" + b"K\x01" * 65 + b"t"), "malformed",
    ),
    "more strides than sizes": (tensor(stride=b"K\x04K\x01\x86"), "malformed"),
    "fewer strides than sizes": (tensor(stride=b")"), "malformed"),
    "size that is no tuple": (tensor(size=b"K\x04"), "malformed"),
    "size of strings": (tensor(size=text("4") + b"\x85"), "malformed"),
    "size of bools": (tensor(size=b"\x88\x85"), "malformed"),
    "size that is a bomb": (tensor(size=shared(15)), "malformed"),
    "no arguments": (b"ctorch._utils\n_rebuild_tensor_v2\n)R", "record is malformed"),
    "too few arguments": (b"ctorch._utils\n_rebuild_tensor_v2\nNN\x86R", "record is malformed"),
    "no storage": (tensor(where=b"N"), "record is malformed"),
    "storage without mark": (tensor(where=storage()[:-1]), "record is malformed"),
    "storage of nothing": (tensor(where=b"NQ"), "storage record is malformed"),
    "storage of itself": (tensor(where=b"]" + put(9) + get(9) + b"aQ"), "storage record"),
    "storage that is absent": (tensor(where=storage("7")), "not in the archive"),
    "storage by path": (tensor(where=storage("../data.pkl")), "not in the archive"),
    "storage of a long name": (tensor(where=storage("7" * 100_000)), "not in the archive"),
    "storage named by a number": (
        tensor(where=storage().replace(text("0"), b"K\x00")), "storage record",
    ),
    "storage on no device": (
        tensor(where=storage().replace(text("cpu"), b"N")), "storage record",
    ),
    "storage of another module": (
        tensor(where=storage().replace(b"ctorch\nFloat", b"cmetaseq\nFloat")), "storage record",
    ),
    "storage of an unknown kind": (
        tensor(where=storage(kind="ComplexFloatStorage", count=b"K\x02")), "unknown storage type",
    ),
    "storage longer than its record": (tensor(where=storage(count=b"K\x05")), "instead of"),
    "storage shorter than its record": (tensor(where=storage(count=b"K\x03")), "instead of"),
    "storage of another width": (tensor(where=storage(kind="HalfStorage")), "instead of"),
    "storage of negative length": (tensor(where=storage(count=signed(-4))), "instead of"),
    "storage of huge length": (tensor(where=storage(count=integer(2**62 + 4))), "instead of"),
    "another rebuild": (tensor(call="_rebuild_parameter"), "record is malformed|no tensor"),
    "a parameter of nothing": (b"ctorch._utils\n_rebuild_parameter\n)R", "is no tensor"),
    "a parameter of itself": (
        b"ctorch._utils\n_rebuild_parameter\n" + tensor(size=b")") + b"\x85R", "malformed",
    ),
    "a subclass of nothing": (b"ctorch._tensor\n_rebuild_from_type_v2\n)R", "is no tensor"),
    "a subclass made by nobody": (
        b"ctorch._tensor\n_rebuild_from_type_v2\n(NNNNtR", "is no tensor",
    ),
    "a subclass made of nothing": (
        b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\nNNNtR",
        "record is malformed",
    ),
    "a number": (b"K\x01", "is no tensor"),
    "a dict": (b"}", "is no tensor"),
    "a name": (NAMESPACE, "is no tensor"),
    "made by NEWOBJ, of a list": (NAMESPACE + b")\x81(Ne", "is no tensor"),
}  # fmt: skip


@pytest.mark.parametrize("attack", TENSORS)
def test_tensor(tmp_path: Path, refused: Refusal, attack: str) -> None:
    value, problem = TENSORS[attack]
    members = {"a/data/0": bytes(16), "a/version": b"3\n"}
    path = archive(tmp_path / "a.pt", pickle(b"}", text("t"), value, b"s"), members)
    file = read_torch_file(path)
    with refused(path, problem):
        list(tensors_of(file, file.content, "model"))


STATE_DICTS: dict[str, bytes] = {
    "None": b"N",
    "a list": b"](" + tensor() + b"e",
    "a tensor": tensor(),
    "a string": text("model"),
    "keys that are numbers": b"}K\x01" + tensor() + b"s",
    "keys that are tuples": b"}(" + text("t") * 16 + b"t" + tensor() + b"s",
    "keys that are names": b"}" + NAMESPACE + tensor() + b"s",
    "an object of strange state": NAMESPACE + b")\x81]b",
    "content that is no dict": NAMESPACE + b")\x81}" + text("_content") + b"Nsb",
    "entries and no tensor": ORDERED_DICT + b")RK\x01" + tensor() + b"s",
}


@pytest.mark.parametrize("attack", STATE_DICTS)
def test_state_dict(tmp_path: Path, refused: Refusal, attack: str) -> None:
    path = archive(tmp_path / "a.pt", pickle(STATE_DICTS[attack]), {"a/data/0": bytes(16)})
    file = read_torch_file(path)
    with refused(path, "model"):
        list(tensors_of(file, file.content, "model"))


def test_what_is_accepted(tmp_path: Path) -> None:
    """Every lie above is one step from these."""
    sound = {
        "whole": tensor(),
        "on a GPU": tensor(where=storage(location="cuda:7")),
        "scalar": tensor(size=b")", stride=b")", offset=b"K\x03"),
        "empty": tensor(size=b"K\x00\x85", offset=b"K\x04"),
        "torch.Size": tensor(size=b"ctorch\nSize\nK\x02K\x02\x86\x85R", stride=b"K\x02K\x01\x86"),
        "strides without meaning": tensor(b"K\x01K\x04\x86", b"K\x63K\x01\x86"),
        "parameter": b"ctorch._utils\n_rebuild_parameter\n" + tensor() + b"\x89N\x87R",
        "old": tensor(call="_rebuild_tensor"),
    }
    entries = b"".join(text(name) + value for name, value in sound.items())
    path = archive(tmp_path / "a.pt", pickle(b"}(", entries, b"u"), {"a/data/0": bytes(16)})
    file = read_torch_file(path)
    refs = {ref.name: ref for ref in tensors_of(file, file.content, "model")}
    start = file.storages["0"].offset
    assert {ref.ranges[0].offset - start for ref in refs.values()} == {0, 12, 16}
    assert refs["torch.Size"].shape == (2, 2)
    assert refs["scalar"].shape == ()
