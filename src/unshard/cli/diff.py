"""`unshard diff A B`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

import click

from unshard.architectures.opt import OPTConfig, weight_names
from unshard.cli.display import progress
from unshard.cli.json_values import json_value
from unshard.dtypes import DType
from unshard.errors import IntegrityError
from unshard.execute.diff import (
    Difference,
    LayerDifference,
    compared_names,
    diff,
    layer_differences,
)
from unshard.execute.workers import DEFAULT_WORKERS
from unshard.index.build import open_checkpoint
from unshard.tensors import TensorIndex


@click.command(
    help="Compare the weights of A and B bit for bit, whatever their layouts. When they differ, a "
    "line per tensor in model order, the first one first, a table of the layers, and exit 3."
)
@click.argument("left", metavar="A")
@click.argument("right", metavar="B")
@click.option(
    "--values",
    is_flag=True,
    help="Equal values are enough: fp16 against fp32, +0 against -0.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=DEFAULT_WORKERS,
    show_default=True,
    help="Threads that read and compare.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(left: str, right: str, values: bool, workers: int, as_json: bool) -> None:
    checkpoints = open_checkpoint(left), open_checkpoint(right)
    first, second = (checkpoint.index for checkpoint in checkpoints)
    with progress() as reporter:
        found = diff(first, second, workers=workers, progress=reporter)
    wrong = [each for each in found if not (values and each.has_equal_values)]
    if as_json:
        click.echo(json.dumps(_json(first, second, found, is_same=not wrong), indent=2))
    else:
        for line in _lines(first, second, found, wrong):
            click.echo(line)
    if wrong:
        raise IntegrityError(
            f"{len(wrong)} tensors differ between {left} and {right}",
            hint=_other_model(*(checkpoint.config for checkpoint in checkpoints)),
        )


def _other_model(first: OPTConfig, second: OPTConfig) -> str | None:
    """In what two models differ by their shape, so that their weights need no comparison."""
    ours, theirs = dataclasses.asdict(first), dataclasses.asdict(second)
    others = [f"{key} {ours[key]} and {theirs[key]}" for key in ours if ours[key] != theirs[key]]
    return f"they are different models: {', '.join(others)}" if others else None


def _lines(
    first: TensorIndex,
    second: TensorIndex,
    found: Sequence[Difference],
    wrong: Sequence[Difference],
) -> Iterator[str]:
    if wrong:
        for difference in wrong:
            yield f"{difference.name}: {difference.what}"
        yield from _table(layer_differences(first, second, wrong))
        return
    shared = [first[name] for name in weight_names(first)]
    parameters = sum(tensor.num_elements for tensor in shared)
    model = f"{len(shared)} tensors, {parameters:,} parameters"
    if found:
        yield f"equal: {model}, value for value; {len(found)} tensors differ in dtype or bits"
    else:
        yield f"identical: {model}, bit for bit"


def _table(layers: Sequence[LayerDifference]) -> Iterator[str]:
    yield f"{'layer':<8} {'tensors differ':>16} {'elements differ':>18} {'max |Δ|':>12}"
    for each in layers:
        if each.num_different_tensors:
            name = "outside" if each.layer is None else str(each.layer)
            tensors = f"{each.num_different_tensors} of {each.num_tensors}"
            delta = "NaN" if each.num_nan else f"{each.max_abs_delta:g}"
            yield f"{name:<8} {tensors:>16} {each.num_different_elements:>18,} {delta:>12}"
    same = sum(not each.num_different_tensors for each in layers)
    if same:
        yield f"{same} of {len(layers)} layers (the root counts as one) are the same"


def _json(
    first: TensorIndex, second: TensorIndex, found: Sequence[Difference], *, is_same: bool
) -> dict[str, Any]:
    return {
        "is_same": is_same,
        "num_tensors": len(compared_names(first, second)),
        "differences": [_difference_json(each) for each in found],
        "layers": json_value(layer_differences(first, second, found)),
    }


def _difference_json(difference: Difference) -> dict[str, Any]:
    return {
        "name": difference.name,
        "what": difference.what,
        "shapes": json_value(difference.shapes),
        "dtypes": [dtype.name if isinstance(dtype, DType) else None for dtype in difference.dtypes],
        "has_equal_values": difference.has_equal_values,
        "values": json_value(difference.values),
    }
