"""Our reader and writer of torch.save archives against torch itself."""

from __future__ import annotations

import argparse
import io
import zipfile
import zlib
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from unshard.dtypes import ALL
from unshard.errors import FormatError
from unshard.formats.pickle_encode import encode_pickle
from unshard.formats.records import PickledObject, as_mapping
from unshard.formats.torch_zip import read_torch_file, read_torch_files, tensor_ref, tensors_of
from unshard.formats.torch_zip_layout import (
    ZipEntry,
    data_offset,
    descriptor,
    directory,
    lay_out,
    local_header,
)
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


def test_members_know_their_checksums(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"model": {"t": torch.arange(9), "none": torch.empty(0)}}, path)
    with zipfile.ZipFile(path) as archive:
        for name, member in read_zip_directory(path).items():
            assert member.crc32 == zlib.crc32(archive.read(name))


@pytest.mark.parametrize("root", ["archive", "a", "step_4000.pt-model_part-0", "two words"])
def test_any_root_folder(tmp_path: Path, root: str) -> None:
    path = tmp_path / f"{root}.x"
    torch.save({"model": {"t": torch.arange(9)}}, path)
    file = read_torch_file(path)
    assert (file.root, file.storages.keys()) == (root, {"0"})


def test_saved_into_an_open_file(tmp_path: Path) -> None:
    with (tmp_path / "a.pt").open("wb") as file:
        torch.save({"model": {"t": torch.arange(9)}}, file)
    assert read_torch_file(tmp_path / "a.pt").root == "archive"


def test_an_archive_is_laid_out_as_torch_lays_it(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"model": {"t": torch.arange(9), "u": torch.ones(1000)}}, path)
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        contents = [archive.read(info) for info in infos]
    entries, file_bytes = lay_out([(info.filename, info.file_size) for info in infos])
    out = b""
    for entry, info, content in zip(entries, infos, contents, strict=True):
        out += local_header(entry) + content + descriptor(replace(entry, crc32=info.CRC))
    out += directory(
        [replace(entry, crc32=info.CRC) for entry, info in zip(entries, infos, strict=True)],
        len(out),
    )
    assert out == path.read_bytes()
    assert len(out) == file_bytes


def test_more_records_than_16_bits_can_count() -> None:
    entry = ZipEntry("a/version", 0, 2, 7)
    with zipfile.ZipFile(io.BytesIO(directory([entry] * 0x10000, 0))) as archive:
        assert len(archive.infolist()) == 0x10000


@pytest.mark.parametrize("num_bytes", [0xFFFFFFFE, 0xFFFFFFFF, 1 << 32, 5 << 30])
def test_storage_around_4_gib(tmp_path: Path, num_bytes: int) -> None:
    """Its header and those behind it carry 64-bit sizes and offsets; the data is a hole."""
    records = [("a/data.pkl", 4), ("a/data/0", num_bytes), ("a/data/1", 3), ("a/version", 2)]
    entries, file_bytes = lay_out(records)
    path = tmp_path / "a.pt"
    pickle = b"\x80\x02}."
    entries[0] = replace(entries[0], crc32=zlib.crc32(pickle))
    with path.open("wb") as file:
        for entry in entries:
            file.seek(entry.header_offset)
            file.write(local_header(entry) + (pickle if entry.num_bytes == 4 else b""))
            file.seek(data_offset(entry) + entry.num_bytes)
            file.write(descriptor(entry))
        file.write(directory(entries, file.tell()))
    assert path.stat().st_size == file_bytes
    members = read_torch_file(path).storages
    assert [(member.offset, member.length) for member in members.values()] == [
        (data_offset(entries[1]), num_bytes),
        (data_offset(entries[2]), 3),
    ]


def test_similar_files_share_what_is_equal(tmp_path: Path) -> None:
    """And each is what it is when opened by itself."""
    shape = {"names": ["weight", "bias"], "shapes": [(3, 4), (3,)]}
    paths = [tmp_path / f"{rank}.pt" for rank in range(4)]
    for rank, path in enumerate(paths):
        model = {"t": torch.arange(5)}
        torch.save({"model": model, "rank": rank, "time": rank / 7, "shape": shape}, path)
    files = list(read_torch_files(paths))
    for rank, (file, path) in enumerate(zip(files, paths, strict=True)):
        alone = read_torch_file(path)
        assert encode_pickle(file.content) == encode_pickle(alone.content)
        assert (file.path, file.storages) == (alone.path, alone.storages)
        assert (file.content["rank"], file.content["time"]) == (rank, rank / 7)
    assert files[2].content["shape"] is files[3].content["shape"]
