"""Our reader and writer of torch.save archives against torch itself."""

from __future__ import annotations

import argparse
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unshard.dtypes import ALL
from unshard.errors import FormatError
from unshard.formats.pickle_encode import encode_pickle
from unshard.formats.records import PickledObject, as_mapping
from unshard.formats.torch_zip import read_torch_file, tensor_ref, tensors_of
from unshard.formats.zip_directory import read_zip_directory
from unshard.tensors import TensorRef

TORCH_DTYPES = {
    "fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64,
    "int8": torch.int8, "uint8": torch.uint8, "int16": torch.int16, "int32": torch.int32,
    "int64": torch.int64, "bool": torch.bool,
}  # fmt: skip


def raw_bytes(ref: TensorRef) -> bytes:
    return b"".join(
        Path(piece.path).read_bytes()[piece.offset : piece.offset + piece.length]
        for piece in ref.ranges
    )


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", ALL, ids=lambda dtype: dtype.name)
def test_every_dtype(tmp_path: Path, dtype: Any) -> None:
    tensor = (torch.arange(24) % 7).reshape(2, 3, 4).to(TORCH_DTYPES[dtype.name])
    torch.save({"model": {"t": tensor}}, tmp_path / "a.pt")
    file = read_torch_file(tmp_path / "a.pt")
    [ref] = tensors_of(file, file.content["model"], "model")
    assert (ref.dtype, ref.shape) == (dtype, (2, 3, 4))
    assert raw_bytes(ref) == bytes_of(tensor)


def test_views_parameters_and_attributes(tmp_path: Path) -> None:
    base = torch.arange(100, dtype=torch.float32)
    named = base[3:5].clone()
    named.note = "an attribute"
    model = OrderedDict(
        view=base[10:30].view(4, 5), scalar=base[7], parameter=torch.nn.Parameter(base[:4]),
        attributed=named, empty=torch.empty(0, 3),
    )  # fmt: skip
    torch.save({"model": model}, tmp_path / "a.pt")
    file = read_torch_file(tmp_path / "a.pt")
    refs = {ref.name: ref for ref in tensors_of(file, file.content["model"], "model")}
    assert list(refs) == list(model)
    for name, tensor in model.items():
        assert refs[name].shape == tuple(tensor.shape)
        assert raw_bytes(refs[name]) == bytes_of(tensor.detach())


def test_transposed_tensor_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {"t": torch.zeros(2, 3).T}}, tmp_path / "a.pt")
    file = read_torch_file(tmp_path / "a.pt")
    with pytest.raises(FormatError, match="row-major"):
        list(tensors_of(file, file.content["model"], "model"))


def test_opening_reads_headers_only(tmp_path: Path) -> None:
    """A storage replaced by garbage is not noticed, because nobody looked."""
    path = tmp_path / "a.pt"
    torch.save({"model": {"t": torch.zeros(1 << 16)}}, path)
    [member] = [m for name, m in read_zip_directory(path).items() if name.endswith("data/0")]
    with path.open("r+b") as file:
        file.seek(member.offset)
        file.write(b"\xff" * member.length)
    read_torch_file(path)


def content(**more: Any) -> dict[str, Any]:
    shared = "shared string"
    return {
        "cfg": {
            "_name": None,
            "model": argparse.Namespace(lr=[1e-4], betas="(0.9, 0.95)", x=shared),
        },
        "many": {f"key{i}": i for i in range(1000)},
        "list": list(range(2500)),
        "numbers": [
            0,
            255,
            256,
            65535,
            65536,
            -1,
            2**31 - 1,
            -(2**31),
            2**31,
            -(2**63),
            10**30,
            1.5,
        ],
        "odd": [
            None,
            True,
            False,
            (),
            (1,),
            (1, 2),
            (1, 2, 3),
            (1, 2, 3, 4),
            "",
            "é\u2028",
            shared,
        ],
        "ordered": OrderedDict([("b", 1), ("a", shared)]),
        "default": defaultdict(list, a=[1]),
        "size": torch.Size([1, 2]),
        "dtype": torch.float16,
        "numpy": np.float64(2.5),
        **more,
    }


def test_reading_and_writing_a_pickle_gives_its_bytes_again(tmp_path: Path) -> None:
    value = content(model={"w": torch.zeros(2, 2)}, rng=torch.zeros(4, dtype=torch.uint8))
    torch.save(value, tmp_path / "a.pt")
    file = read_torch_file(tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        assert encode_pickle(file.content) == archive.read("a/data.pkl")


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=12,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(value=plain)
def test_any_plain_value(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "a.pt"
    torch.save({"value": value}, path)
    file = read_torch_file(path)
    assert file.content["value"] == value
    with zipfile.ZipFile(path) as archive:
        assert encode_pickle(file.content) == archive.read("a/data.pkl")


def test_records_are_inert(tmp_path: Path) -> None:
    torch.save({"cfg": argparse.Namespace(lr=1)}, tmp_path / "a.pt")
    cfg = read_torch_file(tmp_path / "a.pt").content["cfg"]
    assert isinstance(cfg, PickledObject)
    assert as_mapping(cfg) == {"lr": 1}


def test_a_value_that_is_no_tensor(tmp_path: Path) -> None:
    torch.save({"model": {"t": 3}}, tmp_path / "a.pt")
    file = read_torch_file(tmp_path / "a.pt")
    assert tensor_ref(file, "t", 3) is None
    with pytest.raises(FormatError, match=r"model\['t'\] is no tensor"):
        list(tensors_of(file, file.content["model"], "model"))
