"""Decoding and encoding again gives the bytes that Python's pickler wrote."""

from __future__ import annotations

import argparse
import datetime as dt
import decimal
import pickle
import zipfile
from collections import OrderedDict, defaultdict, deque
from pathlib import Path
from typing import Any

import numpy as np
import omegaconf
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unshard.formats.pickle_encode import encode_pickle
from unshard.formats.records import PickledObject, as_mapping
from unshard.formats.torch_zip import read_torch_file
from unshard.formats.unpickle import decode_pickle


def content() -> dict[str, Any]:
    shared = "shared string"
    return {
        "cfg": {
            "_name": None,
            "model": argparse.Namespace(lr=[1e-4], betas="(0.9, 0.95)", x=shared),
        },
        "many": {f"key{i}": i for i in range(1000)},
        "list": list(range(2500)),
        "numbers": [0, 255, 256, 65535, 65536, -1, 2**31 - 1, -(2**31), 2**31, -(2**63), 10**30],
        "odd": [1.5, None, True, False, "", "é\u2028", shared],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "ordered": OrderedDict([("b", 1), ("a", shared)]),
        "default": defaultdict(list, a=[1]),
        "size": torch.Size([1, 2]),
        "dtype": torch.float16,
        "numpy": np.float64(2.5),
    }  # fmt: skip


def test_a_checkpoint(tmp_path: Path) -> None:
    value = content() | {"model": {"w": torch.zeros(2, 2)}, "rng": torch.get_rng_state()}
    torch.save(value, tmp_path / "a.pt")
    file = read_torch_file(tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        assert encode_pickle(file.content) == archive.read("a/data.pkl")


texts = st.text(max_size=9).filter(lambda text: len(text) != 1)
"""Python has most strings of one character once, but not all, and decoding cannot tell."""
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**500), 2**500)
    | st.floats()
    | texts
    | st.binary(max_size=9)
    | st.complex_numbers()
    | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(texts | st.integers(-9, 9), inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(texts, inner, max_size=4).map(OrderedDict)
        | st.dictionaries(texts, inner, max_size=3).map(lambda entries: defaultdict(list, entries))
        | st.dictionaries(st.from_regex(r"[a-z]{2,5}", fullmatch=True), inner, max_size=4).map(
            lambda attributes: argparse.Namespace(**attributes)
        )
        | inner.map(lambda value: [value, (value, value), value])  # shared by identity
        | st.sets(texts, max_size=3)
    ),
    max_leaves=15,
)


@given(value=plain)
def test_anything_that_protocol_2_writes(value: Any) -> None:
    written = pickle.dumps(value, protocol=2)
    assert encode_pickle(decode_pickle(written, "x")) == written


@pytest.mark.slow
@settings(max_examples=5000, deadline=None)
@given(value=plain)
def test_anything_that_protocol_2_writes_at_length(value: Any) -> None:
    written = pickle.dumps(value, protocol=2)
    assert encode_pickle(decode_pickle(written, "x")) == written


@pytest.mark.parametrize("length", [0, 1, 2, 999, 1000, 1001, 2000, 2001])
def test_batches(length: int) -> None:
    """Python writes elements and items in groups of 1000."""
    values = [str(number) for number in range(length)]
    entries = dict.fromkeys(values, 1.5)
    for value in (values, entries, OrderedDict(entries), deque(values), tuple(values)):
        written = pickle.dumps(value, protocol=2)
        assert encode_pickle(decode_pickle(written, "x")) == written


def test_a_value_that_holds_itself() -> None:
    values: list[Any] = []
    values += [values, (values,), (values, 1, 2, values), {"a": values}]
    written = pickle.dumps(values, protocol=2)
    assert encode_pickle(decode_pickle(written, "x")) == written


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_is_read(protocol: int) -> None:
    value = {
        "text": ["a" * 300, "é"],
        "bytes": [b"a" * 300, bytearray(b"b")],
        "sets": [{1, 2}, frozenset({3})],
        "numbers": [0, 255, 65535, -1, 2**40, 1.5],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    }
    found = decode_pickle(pickle.dumps(value, protocol), "x")
    assert found["text"] == value["text"]
    assert found["numbers"] == value["numbers"]
    assert found["tuples"] == value["tuples"]
    if protocol == pickle.HIGHEST_PROTOCOL:
        assert found == value


OBJECTS: dict[str, Any] = {
    "namespace": argparse.Namespace(lr=1),
    "omegaconf": omegaconf.OmegaConf.create({"a": {"b": [1, "x", None]}, "c": 1.5}),
    "numpy scalar": np.float32(1.5),
    "numpy array": np.arange(6, dtype=np.int64).reshape(2, 3),
    "numpy generator's state": np.random.RandomState(0).get_state(),
    "device": torch.device("cuda:3"),
    "date": dt.datetime(2022, 5, 3, tzinfo=dt.UTC),
    "decimal": decimal.Decimal("1.5"),
    "path": Path("a/b"),
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_of_trainers(kind: str) -> None:
    """Kept as records, and written as they were."""
    written = pickle.dumps(OBJECTS[kind], protocol=2)
    found = decode_pickle(written, "x")
    assert encode_pickle(found) == written


@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
def test_numpy_of_both_names(module: str) -> None:
    """numpy 2 renamed the module that its pickles mention."""
    written = pickle.dumps(np.float64(2.5), protocol=2)
    other = written.replace(b"numpy._core.", module.encode() + b".")
    assert isinstance(decode_pickle(other, "x"), PickledObject)
    assert encode_pickle(decode_pickle(other, "x")) == other


def test_records_are_mappings(tmp_path: Path) -> None:
    found = decode_pickle(pickle.dumps(OBJECTS["omegaconf"], 2), "x")
    assert list(as_mapping(found) or {}) == ["a", "c"]
