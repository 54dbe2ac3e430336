"""The one tree of exceptions.

Every error a user can meet is an `UnshardError`: one line that names the file,
tensor or field, a hint that says what to do, and the exit code a shell script
sees. The CLI renders it in `cli/main.py`, the server in `server/failures.py`,
and nobody else prints it.

    UnshardError                 1  something failed
    ├── UsageError               2  the command was asked for something impossible
    │   ├── RequestError            one generation request is invalid (HTTP 400)
    │   └── UnknownTensorError      a checkpoint has no tensor of that name
    ├── IntegrityError           3  something is not what it claims to be
    │   ├── FormatError             a file breaks its own format (or is hostile)
    │   ├── CheckpointError         files, ranks or tensors do not fit together
    │   └── DigestError             bytes differ from the manifest
    ├── PersonNeededError        4  only a person can go on
    │   ├── LinkRefusedError        the link is expired or refused
    │   └── NoSpaceError            the disk is full
    ├── TransferError            1  the network or the server misbehaved
    ├── DestinationError         1  the output cannot be written there
    ├── WorkerLostError          5  machines or processes that shared the work died
    └── EngineLostError          6  the engine died; nothing more can be generated
"""

from __future__ import annotations

import os
from typing import Any, ClassVar


class UnshardError(Exception):
    """Base of all errors that unshard raises on purpose.

    `message` is one line; `hint`, when there is one, says what to do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint is not None:
            self.add_note(f"hint: {hint}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Whole, with its hint, to another process, whatever the arguments of its class are."""
        return _without_init, (type(self), self.args), self.__dict__


def _without_init(kind: type[UnshardError], args: tuple[object, ...]) -> UnshardError:
    return kind.__new__(kind, *args)


class UsageError(UnshardError):
    """The request makes no sense as asked: a wrong folder, name or number."""

    exit_code = 2


class IntegrityError(UnshardError):
    """Something is not what it claims to be."""

    exit_code = 3


class FormatError(IntegrityError):
    """A file breaks the rules of its format; `path` names it."""

    def __init__(
        self, path: str | os.PathLike[str], problem: str, *, hint: str | None = None
    ) -> None:
        super().__init__(f"{os.fspath(path)}: {problem}", hint=hint)
        self.path = os.fspath(path)
        self.problem = problem


class CheckpointError(IntegrityError):
    """The files of a checkpoint do not fit together: one is missing, ranks
    disagree, a tensor has no rule or a rule has no tensor."""


class DigestError(IntegrityError):
    """The bytes of a file differ from what the manifest says."""


class PersonNeededError(UnshardError):
    """The program cannot go on by itself, and nothing that was done is lost."""

    exit_code = 4


class LinkRefusedError(PersonNeededError):
    """The server refuses the link (HTTP 401/403): expired, mangled or withdrawn."""


class NoSpaceError(PersonNeededError):
    """The destination has too little space."""


class TransferError(UnshardError):
    """The network failed, or the server answered with something else than the file."""


class DestinationError(UnshardError):
    """The output cannot be written where it was asked for."""


class WorkerLostError(UnshardError):
    """Machines or processes that shared the work died, too often to go on."""

    exit_code = 5


class EngineLostError(UnshardError):
    """The engine died, out of memory or of a bug, and with it all that it was working on."""

    exit_code = 6


class RequestError(UsageError):
    """One generation request is invalid; `param` names the field at fault."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.param = param
        self.code = code


class UnknownTensorError(UsageError, KeyError):
    """A checkpoint has no tensor of the name that was asked for."""

    def __str__(self) -> str:
        """The message itself: a KeyError would quote it."""
        return self.message
