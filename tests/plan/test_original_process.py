"""What loading does to shared values, against Python's own pickle.

Loading and pickling again is what the original scripts do to everything but the weights.
"""

from __future__ import annotations

import pickle
import sys
from argparse import Namespace
from collections import OrderedDict
from itertools import count
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unshard.formats.pickle_encode import encode_pickle
from unshard.formats.torch_release import TORCH_1_13, TORCH_2_13, TorchRelease
from unshard.formats.unpickle import decode_pickle
from unshard.plan.original_process import OriginalProcess

NUMPY = TORCH_2_13 if int(np.__version__.split(".")[0]) >= 2 else TORCH_1_13
fresh = count()


def pickled(value: object) -> bytes:
    return pickle.dumps(value, protocol=2)


def by_unshard(data: bytes, release: TorchRelease = NUMPY) -> bytes:
    return encode_pickle(OriginalProcess(release, ()).load(decode_pickle(data, "test")))


def by_python(data: bytes) -> bytes:
    return pickled(pickle.loads(data))


def new_string(text: str) -> str:
    """An equal string that is an object of its own."""
    return text.encode().decode()


def namespace(attributes: dict[str, Any]) -> Namespace:
    """A namespace whose attribute names are not interned by setting them."""
    made = Namespace()
    vars(made).update(attributes)
    return made


@st.composite
def graphs(draw: st.DrawFn) -> Any:
    """Values that share strings and tuples, with names that no process has interned yet."""
    number = next(fresh)
    names = [f"argument {number} {index}" for index in range(3)]
    pool: list[Any] = [*names, *(new_string(name) for name in names), "", "x", (1, 2), (names[0],)]

    def extend(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        keys = st.sampled_from(pool[:6])
        return st.one_of(
            st.lists(children, max_size=3),
            st.tuples(children, children),
            st.dictionaries(keys, children, max_size=4),
            st.dictionaries(keys, children, max_size=3).map(namespace),
            st.dictionaries(keys, children, max_size=3).map(OrderedDict),
        )

    leaves = st.one_of(st.sampled_from(pool), st.integers(), st.booleans(), st.none())
    return draw(st.recursive(leaves, extend, max_leaves=12))


@given(graphs())
def test_strings_are_shared_as_pickle_shares_them(graph: Any) -> None:
    data = pickled([graph, graph])
    ours = by_unshard(data)  # first: afterwards this process has interned the names
    assert ours == by_python(data)


def test_a_name_that_was_interned_before_is_shared_no_more() -> None:
    sys.intern("weight_decay")
    shared = new_string("weight_decay")
    data = pickled({"a": shared, "b": Namespace(**{shared: 1}), "c": Namespace(weight_decay=2)})
    assert by_unshard(data) == by_python(data)


def test_the_scripts_own_words_are_the_interned_ones() -> None:
    process = OriginalProcess(TORCH_1_13, ("state",))
    loaded = process.load(decode_pickle(pickled(["state", Namespace(state=1)]), "test"))
    word, namespace = loaded
    [attribute] = namespace.state
    assert attribute is process.name("state")
    assert word is not attribute


def test_numpys_scalars_share_their_type_with_each_other_and_not_with_arrays() -> None:
    values = [
        np.float64(1.5), np.arange(3, dtype=np.float64), np.float64(2.5), np.int32(7),
        np.zeros(2, np.int32), np.bool_(True), np.arange(2, dtype=np.int32), np.complex128(1j),
        np.zeros(2, np.complex128), np.complex128(2),
    ]  # fmt: skip
    data = pickled(values)
    assert by_unshard(data) == by_python(data)


def test_numpys_modules_are_those_of_the_release() -> None:
    data = pickled(np.float32(1))
    assert b"cnumpy.core.multiarray\n" in by_unshard(data, TORCH_1_13)
    assert b"cnumpy._core.multiarray\n" in by_unshard(data, TORCH_2_13)


def test_what_was_read_is_not_what_is_loaded() -> None:
    """So each output may change it."""
    read = decode_pickle(pickled(([1], {"a": [2]}, Namespace(b={}))), "test")
    loaded = OriginalProcess(NUMPY, ()).load(read)
    values, entries, namespace = loaded
    values.append(3)
    entries["a"].append(3)
    entries["c"] = namespace.state["b"]["d"] = 3
    assert encode_pickle(read) == pickled(([1], {"a": [2]}, Namespace(b={})))


def test_an_object_may_hold_itself() -> None:
    own = Namespace()
    own.parent = [own]
    data = pickled(own)
    assert by_unshard(data) == by_python(data)
