"""`unshard metaseq`: metaseq's own reshard commands, flag for flag."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from unshard.cli.display import progress
from unshard.cli.fire_values import dashes, truth_option
from unshard.cli.output_path import output_path
from unshard.dtypes import BY_NAME
from unshard.errors import UsageError
from unshard.execute.replicas import accept_close_replicas
from unshard.execute.run import run_plan
from unshard.formats.torch_release import BY_NAME as RELEASES
from unshard.formats.torch_release import TORCH_1_13
from unshard.formats.torch_zip import TorchFile, read_torch_files
from unshard.index.globbed_files import Rank, files_by_rank
from unshard.plan.copy_plan import CopyPlan
from unshard.plan.reshard_fsdp import FsdpOptions, plan_reshard_fsdp
from unshard.plan.reshard_mp import MpOptions, plan_reshard_mp

SETTINGS = {"token_normalize_func": dashes}

torch_version_option = click.option(
    "--torch-version",
    "release",
    type=click.Choice(list(RELEASES)),
    default=TORCH_1_13.name,
    show_default=True,
    help="Whose archive layout to write: the torch that metaseq's users had, or today's.",
)


@click.group(
    name="metaseq",
    help="metaseq's own reshard commands, flag for flag. Values may be given as `--flag True` or "
    "`--flag=True`, names with dashes or underscores.",
    context_settings=SETTINGS,
)
def command() -> None:
    pass


@command.command("reshard-fsdp", context_settings=SETTINGS)
@click.option(
    "--input-glob-pattern",
    "--input",
    "pattern",
    required=True,
    metavar="GLOB",
    help="The FSDP shards of one part, such as 'raw/checkpoint_last-model_part-0-shard*.pt'.",
)
@click.option(
    "--output-shard-name",
    "--output",
    "output",
    required=True,
    metavar="NAME",
    help="What to write; {i} in the file's name stands for the output shard's number.",
)
@click.option(
    "--num-output-shards",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of FSDP shards to write.",
)
@truth_option(
    "--unflatten-weights",
    default=True,
    help_text="Write tensors under their own names instead of flat parameters.",
)
@truth_option("--skip-optimizer-state", default=False, help_text="Leave the optimizer's state out.")
@click.option(
    "--output-dtype",
    type=click.Choice(["fp32", "fp16", "bf16", "None"]),
    default="None",
    show_default=True,
    help="Cast the weights.",
)
@truth_option(
    "--drop-metaseq-req",
    default=False,
    help_text="Leave out the data loader's state where it takes metaseq's classes to load it.",
)
@torch_version_option
def reshard_fsdp(
    pattern: str,
    output: str,
    num_output_shards: int,
    unflatten_weights: bool,
    skip_optimizer_state: bool,
    output_dtype: str,
    drop_metaseq_req: bool,
    release: str,
) -> None:
    """Merge the FSDP shards of one part, and perhaps cut them anew."""
    options = FsdpOptions(
        num_output_shards=num_output_shards,
        unflatten_weights=unflatten_weights,
        skip_optimizer_state=skip_optimizer_state,
        output_dtype=BY_NAME.get(output_dtype),
        drop_metaseq_req=drop_metaseq_req,
        release=RELEASES[release],
    )
    folder, names = output_names(output, num_output_shards)
    _write(plan_reshard_fsdp(pattern, _open(pattern, "shard"), names, options), folder)


@command.command("reshard-mp", context_settings=SETTINGS)
@click.option(
    "--input",
    "pattern",
    required=True,
    metavar="GLOB",
    help="The unflattened parts, such as 'parts/reshard-model_part-*.pt'.",
)
@click.option(
    "--output",
    required=True,
    metavar="NAME",
    help="What to write; {i} in the file's name stands for the output part's number.",
)
@click.option(
    "--num-output-parts",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of tensor-parallel parts to write.",
)
@click.option(
    "--eps",
    type=click.FloatRange(0),
    default=1e-8,
    show_default=True,
    help="How far the parts' copies of a replicated tensor may differ; more is an error.",
)
@torch_version_option
def reshard_mp(pattern: str, output: str, num_output_parts: int, eps: float, release: str) -> None:
    """Merge tensor-parallel parts, and perhaps split them anew."""
    options = MpOptions(num_output_parts, RELEASES[release])
    folder, names = output_names(output, num_output_parts)
    plan = plan_reshard_mp(pattern, _open(pattern, "model_part-"), names, options)
    _write(accept_close_replicas(plan, eps), folder)


def output_names(output: str, count: int) -> tuple[Path, list[str]]:
    """The folder and the names of `count` output files, from a path with `{i}` in its name.

    Raises:
        UsageError: `output` is no such path or a link, or gives several files one name.
    """
    path = output_path(output)
    try:
        names = [path.name.format(i=number) for number in range(count)]
    except (IndexError, KeyError, ValueError, AttributeError) as problem:
        raise UsageError(f"--output {output}: only {{i}} may stand in braces ({problem})") from None
    if not names[0] or "{i" in str(path.parent):
        raise UsageError(f"--output {output}: {{i}} may stand in the file's name only")
    if len(set(names)) < count:
        raise UsageError(
            f"--output {output}: {count} files would have the same name",
            hint="put {i} into it, such as reshard-model_part-{i}.pt",
        )
    return path.parent, names


def _open(pattern: str, rank: Rank) -> list[TorchFile]:
    return list(read_torch_files(files_by_rank(pattern, rank)))


def _write(plan: CopyPlan, folder: Path) -> None:
    with progress() as reporter:
        paths: Sequence[Path] = run_plan(plan, folder, claim=False, progress=reporter)
    for written in paths:
        click.echo(written)
