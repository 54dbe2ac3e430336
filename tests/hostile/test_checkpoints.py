"""Whole folders whose files are sound one by one, and hostile in what they say together."""

from __future__ import annotations

import json
import os
import resource
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unshard.errors import UnshardError
from unshard.formats.pickle_encode import encode_pickle
from unshard.formats.records import Global, PickledObject
from unshard.formats.unpickle import decode_pickle
from unshard.index.build import open_checkpoint
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint

NAME = "checkpoint_last-model_part-0-shard0.pt"
FIRST_LAYER = 1
MAX_BYTES = 2 << 30


@pytest.fixture
def bounded() -> Iterator[None]:
    """What tries to take gigabytes fails, and does not take the machine with it."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edits what the only file pickles."""
    path = folder / NAME
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    [pickle] = [name for name in members if name.endswith("data.pkl")]
    content = decode_pickle(members[pickle], NAME)
    edit(content)
    members[pickle] = encode_pickle(content)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def unit(content: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = content["shard_metadata"]["param_metadata"][FIRST_LAYER]
    return found


def flat(content: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = unit(content)["params"]["flat_param_0"]
    return found


def tensor(content: dict[str, Any], shape: tuple[int, ...]) -> PickledObject:
    """A view of the version buffer's one element."""
    version = content["model"]["decoder.version"]
    strides = tuple(1 for _ in shape)
    return PickledObject(version.constructor, (version.args[0], 0, shape, strides, False, None))


def doubled(value: Any, levels: int = 60) -> Any:
    for _ in range(levels):
        value = [value, value]
    return value


def only(content: dict[str, Any], *names: str, shape: tuple[int, ...]) -> None:
    """An unflattened model of these tensors alone."""
    model = {name: tensor(content, shape) for name in names}
    content["model"] = model
    del content["shard_metadata"]


LAYER = "decoder.layers.0"
RAW: dict[str, Callable[[dict[str, Any]], object]] = {
    "cfg is a bomb": lambda c: c.update(cfg=doubled([])),
    "cfg holds itself": lambda c: c.update(cfg=c),
    "cfg's model is a bomb": lambda c: c["cfg"]["model"].state.update(
        activation_fn=doubled("relu")
    ),
    "shard_metadata holds itself": lambda c: c.update(shard_metadata=c),
    "shard_metadata is a bomb": lambda c: c["shard_metadata"].update(param_metadata=doubled([])),
    "units hold themselves": lambda c: unit(c).update(params=unit(c)),
    "one unit many times": lambda c: c["shard_metadata"].update(param_metadata=[unit(c)] * 50_000),
    "one name many times": lambda c: flat(c).update(names=["x"] * 90_000, shapes=[()] * 90_000),
    "long path, many names": lambda c: (
        unit(c).update(fsdp_path="x" * 1_000_000),
        flat(c).update(names=["x"] * 90_000, shapes=[()] * 90_000),
    ),
    "long names": lambda c: flat(c).update(names=["x" * 50_000] * 12),
    "shapes whose product is huge": lambda c: flat(c).update(shapes=[(2**62,) * 64] * 12),
    "shapes of nothing": lambda c: flat(c).update(shapes=[(0, 2**62)] * 12),
    "padding is huge": lambda c: flat(c).update(padding=2**500),
    "padding is negative": lambda c: flat(c).update(padding=-(2**500)),
    "model holds itself": lambda c: c["model"].update(model=c["model"]),
    "model is the checkpoint": lambda c: c.update(model=c),
    "many tensors": lambda c: c["model"].update(
        {f"x{n}": c["model"]["decoder.version"] for n in range(20_000)}
    ),
    "many layers": lambda c: only(
        c, *(f"decoder.layers.{n}.self_attn_layer_norm.weight" for n in range(9_000)), shape=(1,)
    ),
    "layer 999999999": lambda c: c["model"].update(
        {"decoder.layers.999999999.fc1.weight": c["model"]["decoder.version"]}
    ),
    "fused tensor without rows": lambda c: only(c, f"{LAYER}.self_attn.qkv_proj.weight", shape=()),
    "tensors of no size": lambda c: only(
        c, f"{LAYER}.self_attn_layer_norm.weight", f"{LAYER}.self_attn.k_proj.weight", shape=()
    ),
    "tensors of no rows": lambda c: only(
        c, f"{LAYER}.self_attn_layer_norm.weight", f"{LAYER}.self_attn.k_proj.weight", shape=(0,)
    ),
    "names of terminal commands": lambda c: c["model"].update(
        {"\x1b[2J\ud800": c["model"]["decoder.version"]}
    ),
    "records in place of plain data": lambda c: c.update(
        dict.fromkeys(c, PickledObject(Global("omegaconf", "X"), (), state={"_content": 7}))
    ),
}


@pytest.mark.parametrize("attack", RAW)
def test_raw_checkpoint(tmp_path: Path, bounded: None, attack: str) -> None:
    write_tiny_checkpoint(tmp_path, tp_size=1, fsdp_size=1)
    change(tmp_path, RAW[attack])
    with pytest.raises(UnshardError) as caught:
        open_checkpoint(tmp_path)
    assert len(caught.value.message) < 5000


SOUND = {
    "model_type": "opt", "num_hidden_layers": 1, "hidden_size": 4, "num_attention_heads": 1,
    "ffn_dim": 4, "vocab_size": 4, "max_position_embeddings": 4,
}  # fmt: skip


def write_config(folder: Path, config: bytes, header: bytes = b"{}") -> None:
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (folder / "config.json").write_bytes(config)


CONFIGS: dict[str, bytes] = {
    "empty": b"",
    "deep": b"[" * 1_000_000,
    "NaN": b'{"model_type":NaN}',
    "not UTF-8": b"\xff",
    "twice": b'{"model_type":"opt","model_type":"opt"}',
    "many values": b'{"a":[' + b"[]," * 1_000_000 + b"[]]}",
}


@pytest.mark.parametrize("attack", CONFIGS)
def test_config(tmp_path: Path, attack: str) -> None:
    write_config(tmp_path, CONFIGS[attack])
    with pytest.raises(UnshardError, match=r"config\.json"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("value", [None, True, 0, -1, 1e9, 10**7, 10**30, "4", [], {}])
@pytest.mark.parametrize("key", SOUND)
def test_config_of_strange_values(tmp_path: Path, key: str, value: object) -> None:
    write_config(tmp_path, json.dumps({**SOUND, key: value}).encode())
    with pytest.raises(UnshardError):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_json_of_gigabytes(tmp_path: Path, bounded: None, name: str) -> None:
    write_config(tmp_path, json.dumps(SOUND).encode())
    if name != "config.json":
        (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    with (tmp_path / name).open("ab") as file:
        file.truncate(20 << 30)
    with pytest.raises(UnshardError, match="too large"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.safetensors", "", ".", "a/b", "\0", 5, None])
def test_index_that_leaves_its_folder(tmp_path: Path, name: object) -> None:
    write_config(tmp_path, json.dumps(SOUND).encode())
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    index = json.dumps({"weight_map": {"model.decoder.x": name}})
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UnshardError, match=r"index\.json|missing"):
        open_checkpoint(tmp_path)


def test_things_that_are_no_files(tmp_path: Path) -> None:
    """In a folder they are passed over, where a pattern names them they are refused."""
    write_tiny_checkpoint(tmp_path, tp_size=1, fsdp_size=1)
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "loop.pt").symlink_to("loop.pt")
    open_checkpoint(tmp_path)
    for name in ("pipe", "folder", "loop"):
        with pytest.raises(UnshardError):
            open_checkpoint(f"{tmp_path}/{name}*")


def test_file_name_that_is_no_text(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.pt")).write_bytes(b"x")
    with pytest.raises(UnshardError):
        open_checkpoint(tmp_path)
