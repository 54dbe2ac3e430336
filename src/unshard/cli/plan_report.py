"""A plan for people: a few facts, a table of steps, a table of machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from unshard.cli.printable import printable
from unshard.cli.quantities import counted, format_duration
from unshard.library.fitting import FORMATS, Fit
from unshard.library.forecast import Forecast, LinkForecast
from unshard.library.machines import USABLE
from unshard.library.planning import Planned
from unshard.library.room import Weights
from unshard.library.steps import NUM_SEQUENCES, Step
from unshard.progress import shown_bytes


def report_lines(planned: Planned) -> Iterator[str]:
    """Everything, in the order in which it comes to pass."""
    found = planned.forecast
    for label, text in _facts(planned):
        yield f"{label:<8}{text}"
    yield ""
    yield from _table(
        ["step", "writes", "peak disk", "disk after", "memory", "time"],
        [_step_row(step) for step in found.steps],
    )
    if lacking := _without_space(planned):
        whole = found.link is not None and len(lacking) == len(found.steps)
        what = "all of it" if whole else ", ".join(lacking)
        yield f"too little disk is free here for {what}"
    if found.model is not None:
        sequences = f"{NUM_SEQUENCES} sequences of {found.model.max_positions} tokens"
        yield f"(serve: on a CPU, with keys and values of {sequences} in fp32)"
        yield from _weight_lines(found)
        yield ""
        yield from _machine_lines(found)
    if planned.notes or planned.cost:
        yield ""
    yield from (f"note: {printable(note)}" for note in planned.notes)
    if cost := planned.cost:
        yield (
            f"this plan took {counted(cost.num_requests, 'request')} and "
            f"{shown_bytes(cost.received_bytes)} from the server"
        )


def _facts(planned: Planned) -> Iterator[tuple[str, str]]:
    found, model = planned.forecast, planned.forecast.model
    yield "source", printable(planned.source)
    each = f", the largest {shown_bytes(found.largest_file_bytes)}" if found.num_files > 1 else ""
    yield "files", f"{found.num_files}, {shown_bytes(found.num_bytes)}{each}"
    if model is not None:
        yield (
            "model",
            f"{model.num_parameters:,} parameters ({', '.join(model.dtypes)}), "
            f"{shown_bytes(model.weight_bytes)}",
        )
        ranks = f"{model.tp_size} tensor-parallel x {model.fsdp_size} FSDP"
        yield "layout", f"{model.layout}: {ranks}"
    if found.link is not None:
        yield from _link_facts(found.link, planned)
    yield "disk", f"{shown_bytes(planned.disk.free_bytes)} free in {planned.disk.folder}"


def _link_facts(link: LinkForecast, planned: Planned) -> Iterator[tuple[str, str]]:
    if link.bytes_per_s and link.elapsed_s is not None:
        how = ""
        if measured := planned.measured:
            how = f", measured over {counted(measured.num_connections, 'connection')}"
        rate = shown_bytes(int(link.bytes_per_s))
        yield "time", f"{format_duration(link.elapsed_s)} at {rate}/s{how}"
    if link.link_end is None or link.link_left_s is None:
        yield "link", "does not say when it ends"
        return
    verdict = ""
    if link.needed_bytes_per_s:
        needed = f"{shown_bytes(int(link.needed_bytes_per_s))}/s"
        verdict = {
            True: ", after the download",
            False: ", before the download:",
            None: f": a download in one go needs {needed}",
        }[link.ends_in_time]
    left = format_duration(link.link_left_s)
    yield "link", f"ends in {left}, {link.link_end:%Y-%m-%d %H:%M} UTC{verdict}"
    if link.ends_in_time is False:
        yield "", f"{needed} would do, or a fresh link on the way"


def _step_row(step: Step) -> list[str]:
    elapsed = "" if step.elapsed_s is None else format_duration(step.elapsed_s)
    return [
        "  with --reclaim" if step.name.endswith(" --reclaim") else step.name,
        shown_bytes(step.written_bytes) if step.written_bytes else "–",
        shown_bytes(step.peak_disk_bytes),
        shown_bytes(step.final_disk_bytes),
        shown_bytes(step.memory_bytes),
        f"≥ {elapsed}" if step.elapsed_is_least else elapsed,
    ]


def _without_space(planned: Planned) -> list[str]:
    """Steps for which the disk has too little left beside what is there."""
    found = planned.forecast
    there = 0 if found.link else found.num_bytes
    free = planned.disk.free_bytes
    return [step.name for step in found.steps if step.peak_disk_bytes - there > free]


def _weight_lines(found: Forecast) -> Iterator[str]:
    """What becomes of weights for which there is no room."""
    free = shown_bytes(found.free_memory_bytes)
    words = {
        Weights.MAPPED: "mapped from disk, and slow",
        Weights.REFUSED: "refused",
    }
    for step in found.steps:
        if step.weights in words:
            yield f"{step.name}: weights exceed the {free} of free memory: {words[step.weights]}"
    if any(step.weights is Weights.REFUSED for step in found.steps):
        yield "(weights that `reshard --to safetensors --dtype bf16` wrote are mapped in bf16)"


def _machine_lines(found: Forecast) -> Iterator[str]:
    by_machine: dict[str, dict[str, Fit]] = {}
    for fit in found.machines:
        by_machine.setdefault(fit.machine, {})[fit.weight_format] = fit
    formats = [each.name for each in FORMATS]
    rows = [
        [machine, *(_fit_cell(fits.get(name)) for name in formats)]
        for machine, fits in by_machine.items()
    ]
    yield from _table(["weights + tokens", *formats], rows)
    yield f"(per device, of {USABLE:.0%} of its memory: the weights, and how many tokens of keys"
    yield " and values, of all sequences, fit beside; no: the weights do not fit;"
    yield " –: the lines of `serve` above tell)"
    yield "(unshard itself: tensor parallel over devices and hosts, in 32, 16 or 4 bits)"
    yield from _offload_lines(by_machine)


def _offload_lines(by_machine: Mapping[str, Mapping[str, Fit]]) -> Iterator[str]:
    """How those serve it that are too small, if any can."""
    formats = [each.name for each in FORMATS if each.is_ours]
    rows = [
        [machine, *(_offload_cell(fits.get(name)) for name in formats)]
        for machine, fits in by_machine.items()
        if any(each.cpu_offload_gb for each in fits.values())
    ]
    if rows:
        yield ""
        yield from _table(["--cpu-offload-gb: host memory", *formats], rows)
        yield "(where they do not fit: the least N that makes room, for one sequence of full"
        yield " length, too; and what that takes of the host's memory, all ranks together)"


def _offload_cell(fit: Fit | None) -> str:
    if fit is None or fit.cpu_offload_gb is None or fit.host_bytes is None:
        return "–"
    return f"{fit.cpu_offload_gb}: {shown_bytes(fit.host_bytes)}"


def _fit_cell(fit: Fit | None) -> str:
    if fit is None:
        return "–"
    weights = shown_bytes(fit.weight_bytes)
    if not fit.fits:
        return f"no: {weights}"
    return f"{weights} + {_short(fit.cache_tokens)}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Left-aligned first column, the others as wide as they need."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        yield "  ".join(
            cell.ljust(width) for cell, width in zip(line, widths, strict=True)
        ).rstrip()


def _short(count: int) -> str:
    """Rounded down: `7606`, `47k`, `12M`."""
    for unit, one in (("M", 10**6), ("k", 10**3)):
        if count >= 10 * one:
            return f"{count // one}{unit}"
    return str(count)
