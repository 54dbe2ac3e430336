"""docs/sampling.md: its table has every field, its ranges are the server's, its options exist."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from pydantic import ValidationError

from unshard.cli.generate import command
from unshard.engine.request import FactualNucleus, SamplingParams, SourcePenalties
from unshard.server.completions import sampling_params
from unshard.server.protocol import CompletionRequest

PAGE = (Path(__file__).parents[2] / "docs/sampling.md").read_text()
FIELDS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.partition("## ")[0].splitlines()
    if line.startswith("| `")
]
OPTIONS_OF_OTHER_MATTERS = {
    *("--dtype", "--device", "--cpu-offload-gb", "--enforce-eager", "--tp", "--events"),
    *("--input", "--output", "--max-batch"),
}
OF_OTHER_MATTERS = {"model", "prompt", "echo", "stream", "stream_options", "user", "suffix"}


def test_every_field_of_sampling_has_its_row():
    named = [row[0].strip("`") for row in FIELDS]
    assert len(set(named)) == len(named)
    assert set(named) == CompletionRequest.model_fields.keys() - OF_OTHER_MATTERS


def test_the_options_are_those_of_generate():
    told = {row[3].strip("`") for row in FIELDS} - {""}
    options = {option for p in command.params for option in p.opts if option.startswith("-")}
    assert told == options - OPTIONS_OF_OTHER_MATTERS


def test_defaults_are_as_told():
    defaults = sampling_params(CompletionRequest(prompt="p"))
    for name, _, default, *_ in FIELDS:
        field = name.strip("`")
        if re.fullmatch(r"[\d.]+", default) and field != "n":
            assert getattr(defaults, field) == float(default)


RANGES = [
    (name.strip("`"), bound, side)
    for name, limits, *_ in FIELDS
    if (found := re.fullmatch(r"(?:above )?(-?[\d.]+)(?:,? to (-?[\d.]+)|.* and up.*)", limits))
    for bound, side in zip(found.groups(), (-1, 1), strict=True)
    if bound is not None
]


@pytest.mark.parametrize(("field", "bound", "side"), RANGES)
def test_ranges_are_as_told(field, bound, side):
    """The last value within is taken, the next one beyond is not."""
    whole = "." not in bound and field not in {"min_p", "top_p"} and "penalty" not in field
    number = int(bound) if whole else float(bound)
    if (field, side) != ("top_p", -1):
        CompletionRequest(**{"prompt": "p", "echo": True, field: number})
    with pytest.raises(ValidationError, match=field):
        CompletionRequest(**{"prompt": "p", "echo": True, field: number + side * (whole or 0.001)})


def test_the_ranges_were_found():
    assert len(RANGES) >= 18


def test_the_engine_has_the_options_of_metaseq():
    table = PAGE.partition("## What metaseq")[2]
    classes = {each.__name__: each for each in (FactualNucleus, SourcePenalties)}
    built = re.findall(r"`(?:(\w+)=)?(\w+)\(([^)]*)\)`", table)
    assert len(built) == 3
    for option, name, arguments in built:
        assert not option or option in {each.name for each in fields(SamplingParams)}
        named = re.findall(r"\w+", arguments)
        assert set(named) <= {each.name for each in fields(classes[name])}
