"""Sound inputs of every kind, from which fuzzing starts."""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import tempfile
import zipfile
from collections import OrderedDict
from pathlib import Path

from tools.fuzz import answers
from tools.fuzz.downloads import BOOT, ETAG, NAME, SIZE_BYTES

from unshard.dtypes import FLOAT16, FLOAT32
from unshard.formats.safetensors import safetensors_header
from unshard.manifest.json_form import FORMAT, VERSION
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint

VALUES = (
    {"a": [1, 2**40, -1, 1.5, None, True], "b": ("x", ("x",), (1, 2, 3, 4))},
    OrderedDict(a=b"bytes", b={1, 2}, c=frozenset({"x"})),
    argparse.Namespace(lr=[1e-4], name="é", nested=argparse.Namespace(x=1)),
    {str(number): number for number in range(1001)},
)


def write_seeds(target: str, folder: Path) -> None:
    """Writes them into `folder`, each named by its digest."""
    seeds = {
        "pickle": pickles,
        "archive": archives,
        "safetensors": headers,
        "checkpoint": parts,
        "manifest": manifests,
        "journal": journals,
        "answer": heads,
        "body": bodies,
    }
    for seed in seeds[target]():
        (folder / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)


def pickles() -> list[bytes]:
    written = [pickle.dumps(value, protocol) for value in VALUES for protocol in range(2, 6)]
    return written + parts()


def archives() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_checkpoint(folder, tp_size=1, fsdp_size=2)
        return [path.read_bytes() for path in sorted(Path(folder).iterdir())]


def parts() -> list[bytes]:
    """The pickles of the same files."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_checkpoint(folder, tp_size=1, fsdp_size=2)
        for path in sorted(Path(folder).iterdir()):
            with zipfile.ZipFile(path) as archive:
                found.append(archive.read(f"{path.stem}/data.pkl"))
    return found


def headers() -> list[bytes]:
    tensors = [("a", FLOAT16, (2, 3)), ("model.decoder.x", FLOAT32, ()), ("c", FLOAT32, (0, 4))]
    return [
        safetensors_header(tensors, {"format": "pt"}) + bytes(16),
        safetensors_header([], {}),
    ]


def manifests() -> list[bytes]:
    """Each form that there is, of the same three files."""
    names = [f"reshard-model_part-{number}.pt" for number in range(3)]
    sums = {name: hashlib.md5(name.encode()).hexdigest() for name in names}
    longer = {name: hashlib.sha256(name.encode()).hexdigest() for name in names}
    files = [
        {"name": name, "size_bytes": 7, "digests": {"md5": sums[name], "sha256": longer[name]}}
        for name in names
    ]
    forms = [
        ["shard,md5sum", *(f"{name},{value}" for name, value in sums.items())],
        [f"{value}  {name}" for name, value in sums.items()],
        [f"{value} *./{name}" for name, value in longer.items()],
        [f"MD5 ({name}) = {value}" for name, value in sums.items()],
        [f"SHA256({name})= {value}" for name, value in longer.items()],
        ["# checklist.chk", *(f"{value} {name}" for name, value in sums.items())],
        [json.dumps({"format": FORMAT, "version": VERSION, "files": files})],
    ]
    return ["\n".join([*lines, ""]).encode() for lines in forms]


def journals() -> list[bytes]:
    """What a download leaves that was stopped, before and after it was cut into ranges."""
    etag, size = ETAG.decode(), SIZE_BYTES
    boot = {"boot": BOOT.decode()}
    begun = {"begun": NAME, "size_bytes": size, "etag": etag, "is_ranged": False}
    nothing: dict[str, object] = {"arrived": [], "synced": []}
    ranged = begun | nothing | {"is_ranged": True}
    halves = [[0, size // 4], [3 * size // 4, size]]
    finished = {"finished": NAME, "size_bytes": size, "mtime_ns": 1, "inode": 2,
                "algorithm": "md5", "digest": "0" * 32, "folder": "/weights/"}  # fmt: skip
    found = [
        [boot, begun | nothing],
        [boot, ranged, {"arrived": NAME, "spans": halves}],
        [boot, ranged, {"synced": NAME, "spans": halves[:1]}, {"boot": "other"}, boot],
        [boot, ranged | {"arrived": [[0, size]], "synced": [[0, size]]}],
        [finished, boot, finished | {"finished": "b.bin", "inode": None}],
    ]
    return ["\n".join(map(json.dumps, lines)).encode() for lines in found]


def heads() -> list[bytes]:
    """For each who asks, by its number in the first byte: answers that are right, cut, refused."""
    begin = b"HTTP/1.1 200 OK\r\nETag: %s\r\n" % answers.ETAG
    whole = begin + b"Content-Length: %d\r\n\r\n%s" % (len(answers.CONTENT), answers.BODY)
    cut = whole.replace(answers.BODY, answers.CONTENT[:1000])
    rest = answers.right(b"Range: bytes=1000-")
    chunked = begin + b"Transfer-Encoding: chunked\r\n\r\nbb8\r\n%s\r\n0\r\n\r\n" % answers.BODY
    moved = b"HTTP/1.1 302 Found\r\nLocation: b.bin?y\r\nContent-Length: 0\r\n\r\n"
    busy = b"HTTP/1.1 503 No\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
    error = b"<Error><Code>ExpiredToken</Code><Message>x</Message></Error>"
    dead = b"HTTP/1.1 400 No\r\nContent-Length: %d\r\n\r\n%s" % (len(error), error)
    sums = hashlib.md5(b"").hexdigest().encode() + b"  a.bin\n"
    lines = begin + b"Content-Length: %d\r\n\r\n%s" % (len(sums), sums)
    piece = answers.right(b"Range: bytes=3-11")
    return [
        *(bytes([who]) + answers.NEXT.join(each) for who in (0, 1, 128)
          for each in ([whole], [cut, rest], [cut, busy, rest], [dead], [chunked], [moved, cut])),
        *(b"\2" + answers.NEXT.join(each) for each in ([lines], [moved, lines], [busy, chunked])),
        *(b"\3" + answers.NEXT.join(each) for each in ([piece], [whole, piece], [busy, dead])),
    ]  # fmt: skip


def bodies() -> list[bytes]:
    """For each route, by its number in the first byte."""
    sampling = {"temperature": 0.5, "top_p": 0.9, "top_k": 3, "min_p": 0.1, "seed": 1, "stop": "z"}
    penalties = {"presence_penalty": 1, "frequency_penalty": -1, "logit_bias": {"5": 1}}
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    chat = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}
    parts = {"messages": [{"role": "user", "content": [{"type": "text", "text": "t"}]}]}
    found: list[tuple[int, dict[str, object]]] = [
        (0, {"model": "scripted", "prompt": "ab", "max_tokens": 4, **sampling, **penalties}),
        (0, {"prompt": [[5, 6], [7]], "max_tokens": 3, "n": 2, "best_of": 3, "logprobs": 2}),
        (0, {"prompt": ["a", "b"], "max_tokens": 0, "echo": True, "logprobs": 1}),
        (0, {"prompt": [5], "max_tokens": 5, "user": "u", "suffix": None, **streamed}),
        (1, {"model": "scripted", "max_tokens": 4, **chat, **sampling}),
        (1, {"max_completion_tokens": 4, "logprobs": True, "top_logprobs": 2, **parts}),
        (1, {"n": 2, "response_format": {"type": "text"}, **chat, **streamed}),
        (2, {"prompt": "ab", "max_tokens": 4, "min_tokens": 1, "echo": True, "n": 1}),
        (2, {"prompt": [[5, 6]], "temperature": 1, "top_p": 0.5, "best_of": 2, "stop": ["z"]}),
        (3, {"model": "scripted", "prompt": "ab", "add_special_tokens": True}),
        (4, {"tokens": [5, 6]}),
    ]
    return [bytes([route]) + json.dumps(body).encode() for route, body in found]
