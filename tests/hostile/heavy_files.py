"""Files that try to take all time or memory, each built and opened in a process of its own.

    python tests/hostile/heavy_files.py DIR [ATTACK ...]

Prints one JSON object: attack -> [outcome, seconds of CPU, peak megabytes].
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from archives import Lies, archive
from opcodes import EMPTY, NAMESPACE, doubled, get, integer, pickle, put, tensor, text
from test_safetensors_headers import write as write_header
from test_zips import SATURATED, zip64

from unshard.errors import FormatError
from unshard.formats.safetensors import read_safetensors
from unshard.formats.torch_zip import read_torch_file, read_torch_files, tensors_of

MANY = 299_000
"""Just below the limit on opcodes."""
LARGE = 47 << 20
"""Just below the limit on a pickle's bytes."""
WIDE = "x" * 1_000_000 + "\N{SNOWMAN}\U0001f600"

PICKLES: dict[str, Callable[[], bytes]] = {
    "lists without end": lambda: b"]" * LARGE,
    "marks without end": lambda: b"(" * LARGE,
    "puts without end": lambda: b"\x80\x02N" + b"q\x00" * (LARGE // 2),
    "duplicates without end": lambda: b"\x80\x02N" + b"2" * LARGE,
    "a name without end": lambda: b"\x80\x02c" + b"a" * LARGE,
    "lists": lambda: pickle(b"](", b"]" * MANY, b"e"),
    "dicts": lambda: pickle(b"](", b"}" * MANY, b"e"),
    "sets": lambda: pickle(b"](", b"\x8f" * MANY, b"e"),
    "sets of one": lambda: pickle(b"](", b"\x8f(N\x90" * (MANY // 4), b"e"),
    "frozensets": lambda: pickle(b"](", b"(\x91" * (MANY // 2), b"e"),
    "bytearrays": lambda: pickle(b"](", (b"\x96" + bytes(8)) * MANY, b"e"),
    "objects": lambda: pickle(b"](", (NAMESPACE + b")\x81") * (MANY // 3), b"e"),
    "objects of entries": lambda: pickle(
        NAMESPACE, put(0), b"0](", (get(0) + b")\x81NNs") * (MANY // 6), b"e"
    ),
    "tuples of three": lambda: pickle(b"](", b"NNN\x87" * (MANY // 4), b"e"),
    "persistent ids": lambda: pickle(b"](", b"NQ" * (MANY // 2), b"e"),
    "floats": lambda: pickle(b"](", (b"G" + bytes(8)) * MANY, b"e"),
    "long integers": lambda: pickle(b"](", (b"\x8a\x40" + b"\x11" * 64) * MANY, b"e"),
    "marks": lambda: pickle(b"(" * (MANY // 2), b"t" * (MANY // 2)),
    "memo": lambda: pickle(b"N", *(put(1000 * index) for index in range(MANY))),
    "names": lambda: pickle(b"](", *(b"cfairseq\n%d\n" % n for n in range(MANY)), b"e"),
    "integers as keys": lambda: pickle(b"}(", *(integer(n) + b"N" for n in range(MANY // 2)), b"u"),
    "a table of one slot": lambda: pickle(
        b"}(", *(integer(n << 18) + b"N" for n in range(1 << 13)), b"u"
    ),
    "strings as keys": lambda: pickle(
        b"}(", *(text(f"{n}") + b"N" for n in range(MANY // 2)), b"u"
    ),
    "the same long key": lambda: pickle(
        text("x" * 1024), put(0), text("x" * 1024), put(1),
        b"00}(", (get(0) + b"N" + get(1) + b"N") * (MANY // 4), b"u",
    ),
    "the same tuple as key": lambda: pickle(
        b"(", text("x" * 1024) * 16, b"t", put(0), b"0}(", (get(0) + b"N") * (MANY // 2), b"u"
    ),
    "one text": lambda: pickle(text("x" * LARGE)),
    "one text of Latin-1": lambda: pickle(text("\xe9" * (LARGE // 2))),
    "one wide text": lambda: pickle(text("x" * (LARGE - 4) + "\U0001f600")),
    "wide texts": lambda: pickle(b"](", text(WIDE) * (LARGE // len(WIDE.encode()) - 1), b"e"),
    "small wide texts": lambda: pickle(b"](", text("x" * 150 + "\U0001f600") * MANY, b"e"),
    "bytes": lambda: pickle(b"\x8e" + LARGE.to_bytes(8, "little") + bytes(LARGE), protocol=4),
    "too long by a byte": lambda: pickle(text("x" * (48 << 20))),
    "almost too large when unfolded": lambda: pickle(
        b"(" + b"]" * 1400 + b"t", put(0), b"0(" + get(0) * 1400 + b"t"
    ),
    "a key of many objects": lambda: pickle(
        b"}", doubled(17, b")", NAMESPACE + b"%(it)b%(it)b\x86R"), tensor(), b"s"
    ),
    "tensors": lambda: pickle(
        tensor(), put(0), b"0}(", *(text(f"{n}") + get(0) for n in range(MANY // 3)), b"u"
    ),
    "tensors without end": lambda: pickle(
        b"}(", *(text(f"{n}") + tensor() for n in range(MANY // 18)), b"u"
    ),
}  # fmt: skip


def of_gigabytes(path: Path, member: str) -> Path:
    """A hole of 4 GiB as one of torch's own records."""
    size = {"packed": SATURATED, "length": SATURATED}
    lies = {member: Lies(size, extra=zip64(1 << 32, 1 << 32), descriptor=b"")}
    members = {} if member == "a/data.pkl" else {member: b""}
    archive(path, b"" if not members else EMPTY, members, lies=lies)
    raw = path.read_bytes()
    at = raw.index(b"PK\1\2")
    end = bytearray(raw[at:])
    end[-6:-2] = SATURATED.to_bytes(4, "little")
    directory_bytes = len(end) - 22
    end64 = b"PK\6\6" + (44).to_bytes(8, "little") + bytes(12)
    for value in (1 + len(members),) * 2 + (directory_bytes, at + (1 << 32)):
        end64 += value.to_bytes(8, "little")
    locator = b"PK\6\7" + bytes(4) + (at + (1 << 32) + directory_bytes).to_bytes(8, "little")
    with path.open("wb") as file:
        file.write(raw[:at])
        file.seek(at + (1 << 32))
        file.write(end[:directory_bytes] + end64 + locator + b"\1\0\0\0" + end[directory_bytes:])
    return path


def of_members(path: Path, count: int, name: str = "a/data/%d") -> Path:
    return archive(path, members={name % number: b"" for number in range(count)})


ARCHIVES: dict[str, Callable[[Path], Path]] = {
    "pickle of 4 GiB": lambda path: of_gigabytes(path, "a/data.pkl"),
    "byteorder of 4 GiB": lambda path: of_gigabytes(path, "a/byteorder"),
    "29999 members": lambda path: of_members(path, 29_998),
    "60000 members": lambda path: of_members(path, 60_000),
    "members of long names": lambda path: of_members(path, 7_000, "a/data/" + "x" * 1000 + "%d"),
}


def tensors(count: int) -> bytes:
    entry = b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    return b"{" + b",".join(entry % number for number in range(count)) + b"}"


HEADERS: dict[str, Callable[[], bytes]] = {
    "100 MB of spaces": lambda: b"{" + b" " * 99_999_998 + b"}",
    "10 MB of spaces": lambda: b"{" + b" " * 9_999_998 + b"}",
    "deep": lambda: b'{"a":' + b"[" * 9_999_000,
    "lists": lambda: b'{"a":[' + b"[]," * 3_000_000 + b"[]]}",
    "fewer lists": lambda: b'{"a":[' + b"[]," * 199_990 + b"[]]}",
    "objects": lambda: b'{"a":[' + b"{}," * 199_990 + b"{}]}",
    "numbers": lambda: b'{"a":[' + b"1.5," * 399_990 + b"1]}",
    "long numbers": lambda: b'{"a":[' + (b"9" * 4200 + b",") * 2300 + b"1]}",
    "names": lambda: b"{" + b",".join(b'"%d":1' % n for n in range(399_990)) + b"}",
    "wide text": lambda: b'{"' + "\U0001f600".encode() + b"x" * 9_999_000 + b'":1}',
    "wide value": lambda: b'{"a":"' + "\U0001f600".encode() + b"x" * 9_999_000 + b'"}',
    "escapes": lambda: b'{"a":"' + b"\\ud83d\\ude00" * 800_000 + b'"}',
    "open string": lambda: b'{"a":"' + b"x" * 9_999_000,
    "tensors": lambda: tensors(70_000),
    "fewer tensors": lambda: tensors(50_000),
}


def open_torch(path: Path) -> None:
    file = read_torch_file(path)
    list(tensors_of(file, file.content, "model"))


def open_two(path: Path) -> None:
    """The second time with what the first left behind."""
    list(read_torch_files([path, path]))


def attacks() -> dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]]:
    """How each file is written, and how it is then opened."""

    def pickled(make: Callable[[], bytes]) -> Callable[[Path], object]:
        return lambda path: archive(path, make(), {"a/data/0": bytes(16)})

    def headed(make: Callable[[], bytes]) -> Callable[[Path], object]:
        return lambda path: write_header(path, make())

    found = {f"pickle: {name}": (pickled(make), open_torch) for name, make in PICKLES.items()}
    found["twice: lists"] = pickled(PICKLES["lists"]), open_two
    found |= {f"zip: {name}": (make, open_torch) for name, make in ARCHIVES.items()}
    found |= {f"header: {name}": (headed(make), read_safetensors) for name, make in HEADERS.items()}
    return found


def in_child(work: Callable[[], object]) -> tuple[int, float, float]:
    """Exit status, seconds of CPU and peak megabytes of `work` in a process of its own."""
    child = os.fork()
    if child == 0:
        status = 9
        try:
            work()
            status = 0
        except FormatError:
            status = 1
        finally:
            os._exit(status)
    _, status, usage = os.wait4(child, 0)
    return status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    path = Path(sys.argv[1]) / "heavy"
    outcomes = {0: "read", 1 << 8: "refused"}
    known, found = attacks(), {}
    for name in sys.argv[2:] or known:
        write, read = known[name]
        in_child(lambda write=write: write(path))
        status, seconds, megabytes = in_child(lambda read=read: read(path))
        found[name] = outcomes.get(status, f"status {status}"), seconds, megabytes
        path.unlink()
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
