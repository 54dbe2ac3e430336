"""Pickles that run code in whoever unpickles them: refused by name, and nothing runs.

Sources: CVE-2025-32434, advisories of picklescan and fickling.
"""

from __future__ import annotations

import pickle as python_pickle
import pickletools
import struct
from pathlib import Path

import pytest
from archives import archive
from opcodes import EMPTY, NAMESPACE, pickle, short_text, text
from refusal import Refusal

from unshard.formats.pickle_opcodes import OPERATIONS
from unshard.formats.torch_zip import read_torch_file

TOUCH = text("touch pwned")
OPEN = text("pwned") + text("w")

LIVE: dict[str, bytes] = {
    "REDUCE": pickle(b"cos\nsystem\n", TOUCH, b"\x85R"),
    "REDUCE posix": pickle(b"cposix\nsystem\n", TOUCH, b"\x85R"),
    "REDUCE open": pickle(b"cio\nopen\n", OPEN, b"\x86R0N"),
    "STACK_GLOBAL": pickle(short_text("os"), short_text("system"), b"\x93", TOUCH, b"\x85R"),
    "STACK_GLOBAL dotted": pickle(
        short_text("os"), short_text("path.os.system"), b"\x93", TOUCH, b"\x85R", protocol=4
    ),
    "INST": pickle(b"(", TOUCH, b"ios\nsystem\n"),
    "OBJ": pickle(b"(cos\nsystem\n", TOUCH, b"o"),
    "eval": pickle(b"cbuiltins\neval\n", text("open('pwned', 'w') and None"), b"\x85R"),
    "exec": pickle(b"cbuiltins\nexec\n", text("open('pwned', 'w')"), b"\x85R"),
    "getattr": pickle(
        b"cbuiltins\ngetattr\n", b"cbuiltins\n__import__\n", text("os"), b"\x85R", text("system"),
        b"\x86R", TOUCH, b"\x85R",
    ),
    "Popen": pickle(b"csubprocess\ncall\n", text("touch"), text("pwned"), b"\x86\x85R"),
    "pty": pickle(b"cpty\nspawn\n(", text("touch"), text("pwned"), b"lp0\n0g0\n\x85R"),
    "in a state": pickle(NAMESPACE, b")\x81}", text("x"), b"cos\nsystem\n", TOUCH, b"\x85Rsb"),
    "dropped again": pickle(b"cos\nsystem\n", TOUCH, b"\x85R0}"),
    "hidden behind a mark": pickle(b"(cos\nsystem\n", TOUCH, b"\x85R1}"),
    "as a key": pickle(b"}cos\nsystem\n", TOUCH, b"\x85RNs"),
    "behind a healthy pickle's stop": EMPTY[:-1] + b"0cos\nsystem\n" + TOUCH + b"\x85R0}.",
    "text opcodes": b"cos\nsystem\n(S'touch pwned'\ntR.",
}  # fmt: skip
"""Each runs when Python unpickles it, as the first test shows."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("attack", LIVE)
def test_the_attack_is_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str) -> None:
    monkeypatch.chdir(tmp_path)
    python_pickle.loads(LIVE[attack])
    assert (tmp_path / "pwned").exists()


@pytest.mark.parametrize("attack", LIVE)
def test_nothing_runs(tmp_path: Path, refused: Refusal, attack: str) -> None:
    path = archive(tmp_path / "a.pt", LIVE[attack])
    with refused(path, r"pickle at byte \d+: (mentions|opcode)"):
        read_torch_file(path)


MENTIONS = (
    "os system", "posix system", "nt system", "builtins exec", "builtins __import__",
    "builtins open", "builtins breakpoint", "__builtin__ getattr", "importlib import_module",
    "subprocess Popen", "sys modules", "runpy run_path", "webbrowser open", "pickle loads",
    "_pickle loads", "marshal loads", "types FunctionType", "types CodeType", "functools partial",
    "functools reduce", "operator attrgetter", "operator methodcaller", "copyreg add_extension",
    "ctypes CDLL", "socket socket", "asyncio run", "timeit timeit", "pdb run", "code interact",
    "bdb Bdb.run", "pydoc pipepager", "distutils.file_util write_file", "numpy load",
    "numpy.testing._private.utils runstring", "torch load", "torch.hub load", "torch.jit load",
    "torch.storage _load_from_bytes", "torch.serialization load",
    "torch._utils _import_dotted_name", "torch.fx.graph_module reduce_graph_module",
    "torch.utils.cpp_extension load",
    "torch.distributed.rpc.api rpc_sync", "torch os.system", "torch.nn.Module forward",
    "collections OrderedDict.fromkeys", "omegaconf a.b", "metaseq os.system", "fairseqx y",
    "omegaconf\0os system",
)  # fmt: skip


@pytest.mark.parametrize("mention", MENTIONS)
@pytest.mark.parametrize("stacked", [False, True], ids=["GLOBAL", "STACK_GLOBAL"])
def test_mentions(tmp_path: Path, refused: Refusal, mention: str, stacked: bool) -> None:
    """The mere name is refused, before anything is done with it."""
    module, name = mention.split(" ")
    named = text(module) + text(name) + b"\x93" if stacked else f"c{module}\n{name}\n".encode()
    path = archive(tmp_path / "a.pt", pickle(named, protocol=4))
    with refused(path, "pickle at byte .* mentions"):
        read_torch_file(path)


OPERANDS = {
    "stringnl": b"'a'\n",
    "stringnl_noescape": b"a\n",
    "stringnl_noescape_pair": b"os\nsystem\n",
}
NEVER = {
    "INT", "LONG", "STRING", "UNICODE", "FLOAT", "DICT", "PUT", "GET", "INST", "OBJ", "PERSID",
    "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER",
}  # fmt: skip
"""Opcodes that no checkpoint needs: text forms, and further ways to import or call."""


def test_every_opcode_is_known_or_refused() -> None:
    for opcode in pickletools.opcodes:
        known = ord(opcode.code) in OPERATIONS or opcode.name == "STOP"
        assert known == (opcode.name not in NEVER), opcode.name


@pytest.mark.parametrize("name", sorted(NEVER))
def test_opcodes_without_a_place(tmp_path: Path, refused: Refusal, name: str) -> None:
    """Refused as such, even where names and arguments are harmless."""
    [opcode] = [opcode for opcode in pickletools.opcodes if opcode.name == name]
    operand = b"" if opcode.arg is None else OPERANDS.get(opcode.arg.name, b"1\n\0\0\0\0\0\0")
    code = opcode.code.encode("latin-1")
    path = archive(tmp_path / "a.pt", pickle(b"(", NAMESPACE, b")}", code, operand, protocol=5))
    with refused(path, f"opcode 0x{ord(opcode.code):02x} has no place"):
        read_torch_file(path)


@pytest.mark.parametrize("code", sorted({*range(256)} - {ord(o.code) for o in pickletools.opcodes}))
def test_bytes_that_are_no_opcode(tmp_path: Path, refused: Refusal, code: int) -> None:
    path = archive(tmp_path / "a.pt", pickle(bytes([code])))
    with refused(path, "has no place"):
        read_torch_file(path)


CALLS: dict[str, bytes] = {
    "a string": pickle(text("os"), b")R"),
    "a call": pickle(b"ccollections\nOrderedDict\n)R)R"),
    "a new object": pickle(NAMESPACE, b")\x81)\x81"),
    "a number": pickle(b"K\x01)R"),
    "with a list of arguments": pickle(NAMESPACE, b"]R"),
    "a persistent id": pickle(text("x"), b"Q)R"),
    "BUILD of a name": pickle(NAMESPACE, b"}b"),
    "BUILD of a list": pickle(b"]}b"),
    "BUILD of a persistent id": pickle(text("x"), b"Q}b"),
    "BUILD twice": pickle(NAMESPACE, b")\x81}b}b"),
    "unknown protocol": pickle(protocol=9),
    "a name without end": b"\x80\x02c" + b"a" * 4096 + b"\n.",
    "a stacked name without end": pickle(text("metaseq." + "a" * 4096), text("b"), b"\x93"),
    "a name of a number": pickle(text("os"), b"K\x01\x93"),
    "EXT of any size": pickle(b"\x84" + struct.pack("<I", 7)),
}


@pytest.mark.parametrize("attack", CALLS)
def test_calls_of_what_is_no_name(tmp_path: Path, refused: Refusal, attack: str) -> None:
    path = archive(tmp_path / "a.pt", CALLS[attack])
    with refused(path, "pickle"):
        read_torch_file(path)
