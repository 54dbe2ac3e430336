"""Mutations that keep an input's outer form, so that they reach what lies behind it."""

from __future__ import annotations

import json
import random
import re
from typing import Any

from tools.fuzz.opcodes import INTERESTING

FIELDS = (1, 2, 2, 4, 4, 8)
"""Bytes of the fields in a zip archive's records."""
LONGEST_RECORD = 60
SIZES = (*INTERESTING, 2**62, 10**30, 1.0, True, "1", None)


def mutated_archive(data: bytes, random: random.Random) -> bytes:
    """Another value in some fields of a zip archive's records."""
    records = [found.start() for found in re.finditer(rb"PK[\1-\7][\2-\x08]", data)]
    raw = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 3))):
        if not records:
            break
        at, size = random.choice(records) + random.randrange(LONGEST_RECORD), random.choice(FIELDS)
        other = random.choice(records)
        value = random.choice((*INTERESTING, other, len(data) - other)) % (1 << 8 * size)
        raw[at : at + size] = value.to_bytes(size, "little")
    return bytes(raw)


def mutated_safetensors(data: bytes, random: random.Random) -> bytes:
    """Another value somewhere in a safetensors header, whose length is put right."""
    end = 8 + int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8:end])
    except (ValueError, RecursionError):
        return data
    if not isinstance(header, dict):
        return data
    for _ in range(random.choice((1, 1, 2, 3))):
        mutate_json(header, random)
    raw = json.dumps(header).encode("utf-8", "surrogatepass")
    return len(raw).to_bytes(8, "little") + raw + data[end:]


def mutate_json(value: Any, random: random.Random) -> None:
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    if not keys:
        return
    key = random.choice(keys)
    inner = value[key]
    if isinstance(inner, dict | list) and inner and random.random() < 0.8:
        mutate_json(inner, random)
    elif random.random() < 0.2:
        del value[key]
    elif isinstance(value, dict) and random.random() < 0.3:
        value[random.choice(("x", "__metadata__", "\ud800", *keys))] = inner
    else:
        value[key] = random.choice((*SIZES, "F32", "I8", "F16", [], {}, [0], [0, 4], inner))


def mutated_body(data: bytes, random: random.Random) -> bytes:
    """Another value somewhere in a JSON object behind the first byte, or another first byte."""
    if random.random() < 0.1:
        return random.randbytes(1) + data[1:]
    return data[:1] + _mutated_object(data[1:], random)


def mutated_lines(data: bytes, random: random.Random) -> bytes:
    """Lines dropped, repeated, swapped or changed, those of JSON by their form; or, where all is
    one object, another value in it."""
    if (other := _mutated_object(data, random)) != data:
        return other
    lines = data.split(b"\n")
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(lines) + 1)
        match random.randrange(4):
            case 0:
                del lines[at : at + random.choice((1, 1, 2))]
            case 1:
                lines[at:at] = lines[at : at + random.choice((1, 2, 5))]
            case 2 if at + 1 < len(lines):
                lines[at], lines[at + 1] = lines[at + 1], lines[at]
            case _ if at < len(lines):
                lines[at] = _mutated_object(lines[at], random)
        lines = lines or [b""]
    return b"\n".join(lines)


def _mutated_object(data: bytes, random: random.Random) -> bytes:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    if not isinstance(value, dict):
        return data
    for _ in range(random.choice((1, 1, 2, 3))):
        mutate_json(value, random)
    return json.dumps(value).encode()
