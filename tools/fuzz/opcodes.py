"""Mutating a pickle by whole opcodes."""

from __future__ import annotations

import pickletools
import random
import struct

INTERESTING = (0, 1, -1, 2, 3, 4, 255, 256, 2**31 - 1, -(2**31), 2**53, 2**61 - 1, 2**63, 2**64)
WORDS = (
    "", "storage", "cpu", "cuda:0", "0", "1", "model", "cfg", "shard_metadata", "param_metadata",
    "fsdp_path", "params", "flat_param_0", "names", "shapes", "numels", "padding", "_content",
    "_val", "decoder.version", "decoder.layers.0.fc1.weight", "decoder.layers.9999.fc1.bias",
    "decoder.layers.0.self_attn.qkv_proj.weight", "\ud800", "x" * 2000,
)  # fmt: skip
NAMES = (
    "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "torch HalfStorage",
    "torch._tensor _rebuild_from_type_v2", "torch FloatStorage", "torch Size", "os system",
    "collections OrderedDict", "argparse Namespace", "omegaconf.dictconfig DictConfig",
)  # fmt: skip


def mutated_pickle(data: bytes, random: random.Random) -> bytes:
    """`data` after some opcodes were dropped, repeated, swapped, moved or put in."""
    pieces = split(data)
    for _ in range(random.choice((1, 1, 1, 2, 4, 8))):
        at = random.randrange(len(pieces) + 1)
        match random.randrange(6):
            case 0:
                del pieces[at : at + random.choice((1, 1, 2, 5, 20))]
            case 1:
                pieces[at:at] = pieces[at : at + random.choice((1, 2, 5, 20))]
            case 2 if at + 1 < len(pieces):
                pieces[at], pieces[at + 1] = pieces[at + 1], pieces[at]
            case 3 if pieces:
                start = random.randrange(len(pieces))
                pieces[at:at] = pieces[start : start + random.choice((1, 2, 5, 20))]
            case 4 if at < len(pieces):
                pieces[at] = new_piece(random)
            case _:
                pieces.insert(at, new_piece(random))
    return b"".join(pieces)


def split(data: bytes) -> list[bytes]:
    """The opcodes with their operands; what Python's own tools cannot follow stays one piece."""
    starts = []
    try:
        for _, _, position in pickletools.genops(data):
            starts.append(position or 0)
    except Exception:  # noqa: BLE001  (whatever it says of mutated bytes)
        starts.append(len(data))
    ends = [*starts[1:], len(data)]
    return [data[start:end] for start, end in zip(starts, ends, strict=True) if start < end]


def new_piece(random: random.Random) -> bytes:
    match random.randrange(6):
        case 0:
            raw = random.choice(WORDS).encode("utf-8", "surrogatepass")
            return b"X" + struct.pack("<I", len(raw)) + raw
        case 1:
            value = random.choice(INTERESTING)
            raw = value.to_bytes(9, "little", signed=True)
            return b"\x8a" + bytes([len(raw)]) + raw
        case 2:
            module, name = random.choice(NAMES).split()
            return f"c{module}\n{name}\n".encode()
        case 3:
            return random.choice((b"h", b"q")) + bytes([random.randrange(256)])
        case 4:
            return random.choice((b"j", b"r")) + struct.pack("<I", random.randrange(600))
        case _:
            return random.choice(b"NK()]}\x85\x86\x87tleausRQb012\x81\x8f\x90\x91.").to_bytes(
                1, "big"
            )
