"""Copies that go on beside the computing: on a stream of their own, or for a CPU on a thread."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor


class Copy(Protocol):
    """A copy on its way."""

    def arrive(self) -> None:
        """What is computed from now on sees the copy whole."""


class Copier(Protocol):
    """One copy after another, in the order in which they are begun."""

    def begin(self, sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Copy:
        """Copies each of `sources` over `targets`, once all is computed that was asked for."""


class ThreadCopier:
    """Of a CPU, whose computing is done when it returns."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="unshard-copies")

    def begin(self, sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Copy:
        return _Promised(self._thread.submit(_copy, sources, targets))


class _Promised:
    def __init__(self, done: Future[None]) -> None:
        self._done = done

    def arrive(self) -> None:
        self._done.result()


def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    with torch.inference_mode():
        for source, target in zip(sources, targets, strict=True):
            target.copy_(source)


class StreamCopier:
    """Of a GPU: `sources` are in pinned memory, or the host would wait for each copy."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)

    def begin(self, sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Copy:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for source, target in zip(sources, targets, strict=True):
                target.copy_(source, non_blocking=True)
            return _Recorded(self._stream.record_event(), self._device)


class _Recorded:
    def __init__(self, event: torch.cuda.Event, device: torch.device) -> None:
        self._event = event
        self._device = device

    def arrive(self) -> None:
        torch.cuda.current_stream(self._device).wait_event(self._event)


def copier_for(device: torch.device) -> Copier:
    return StreamCopier(device) if device.type == "cuda" else ThreadCopier()
