"""What JSON has no word for."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import Any


def json_value(value: Any) -> Any:
    """`value` in JSON's types: dataclasses as objects, NaN and infinities as the strings
    `nan`, `inf` and `-inf`, which no strict reader stumbles over."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, tuple | list):
        return [json_value(each) for each in value]
    if is_dataclass(value):
        return {each.name: json_value(getattr(value, each.name)) for each in fields(value)}
    return value
