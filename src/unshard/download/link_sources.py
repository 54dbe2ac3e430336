"""Where fresh links come from: a command, or a file that a person rewrites."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import subprocess
import threading
import time
from pathlib import Path

from unshard.download.link import Accept, Note, Sleep
from unshard.download.url import PresignedTemplate
from unshard.errors import LinkRefusedError, UsageError
from unshard.redaction import without_secrets

COMMAND_TIMEOUT_S = 120.0
POLL_S = 1.0
"""Between two looks at the file; a person takes longer."""
_MAX_URL_BYTES = 2**16
_LAST_WORDS_S = 1.0
"""For what a command that has ended said last; what it left in the background may go on."""
_LOOK_S = 0.1
"""How soon a command that is silent is ended with the work that wanted it."""


class CommandSource:
    """The first line that `command` prints; its error output goes where ours does, without what
    may be the secret of a link.

    `command` is split as a shell splits words, but no shell runs it. It may hold a token,
    so nothing here repeats it.

    Raises:
        UsageError: `command` is empty or its quotes do not match.
    """

    is_unattended = True

    def __init__(self, command: str, *, timeout_s: float = COMMAND_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._words: list[str] = []
        with contextlib.suppress(ValueError):  # said below, with nothing of the command in it
            self._words = shlex.split(command)
        if not self._words:
            raise UsageError("--url-command: is empty, or its quotes do not match")

    def first(self) -> PresignedTemplate:
        return self._ask(_accept_all, time.sleep)

    def fresh(
        self,
        refused: PresignedTemplate,  # noqa: ARG002  (one that is the same is refused again)
        accept: Accept,
        sleep: Sleep,
        note: Note,
    ) -> PresignedTemplate:
        note("asking --url-command for a fresh link")
        return self._ask(accept, sleep)

    def _ask(self, accept: Accept, sleep: Sleep) -> PresignedTemplate:
        output, problem = self._run(sleep)
        if problem is None:
            try:
                template = _parse(output)
                accept(template)
            except UsageError as error:
                problem = f"gave no link for this download: {error.message}"
            else:
                return template
        raise LinkRefusedError(
            f"--url-command {problem}",
            hint="try it by itself: it must print the link alone, on its first line",
        )

    def _run(self, sleep: Sleep) -> tuple[bytes, str | None]:
        """What it printed, and what went wrong."""
        try:
            process = subprocess.Popen(  # noqa: S603 - the user's own command
                self._words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # so that it can be ended with all that it started
            )
        except (OSError, ValueError) as error:
            return b"", f"cannot be started: {getattr(error, 'strerror', None) or 'not a command'}"
        relay = _relay(process)
        with process:
            output = None
            try:
                output = self._read(process, sleep)
            finally:
                if output is None:
                    _kill_session(process)
                relay.join(_LAST_WORDS_S)
        if output is None:
            return b"", f"was not done after {self._timeout_s:g} s, or printed too much"
        return output, f"failed (exit status {process.returncode})" if process.returncode else None

    def _read(self, process: subprocess.Popen[bytes], sleep: Sleep) -> bytes | None:
        """What it prints until it ends by itself; None if that takes too long.

        Not until its output is closed: what it left in the background may hold that open.
        """
        assert process.stdout is not None  # noqa: S101 - asked for above
        output, deadline = b"", time.monotonic() + self._timeout_s
        while time.monotonic() < deadline and len(output) < _MAX_URL_BYTES:
            has_ended = process.poll() is not None  # looked at first: all it printed is there
            is_ready, _, _ = select.select([process.stdout], [], [], 0 if has_ended else _LOOK_S)
            block = os.read(process.stdout.fileno(), _MAX_URL_BYTES) if is_ready else b""
            if has_ended and not block:
                return output
            output += block
            sleep(0 if block else _LOOK_S / 10)
        return None


class FileSource:
    """The first line of the file `path`, read again until a person has put a fresh link there."""

    is_unattended = False

    def __init__(self, path: Path, *, poll_s: float = POLL_S) -> None:
        self._path = path
        self._poll_s = poll_s

    def first(self) -> PresignedTemplate:
        try:
            return self._read()
        except UsageError as error:
            raise UsageError(f"{self._path}: {error.message}", hint=error.hint) from None

    def fresh(
        self, refused: PresignedTemplate, accept: Accept, sleep: Sleep, note: Note
    ) -> PresignedTemplate:
        """Waits for it, for as long as it takes."""
        note(
            f"put a fresh link into {self._path}; waiting for it (Ctrl-C ends, and nothing that "
            "has arrived is lost)"
        )
        before, told = None, None
        while True:
            problem = None
            try:
                template = self._read()
                if template != refused:
                    accept(template)
                    return template
            except UsageError as error:
                problem = error.message
            if problem == before and problem not in (None, told):  # not just half written
                note(f"{self._path}: {problem}; still waiting")
                told = problem
            before = problem
            sleep(self._poll_s)

    def _read(self) -> PresignedTemplate:
        """
        Raises:
            UsageError: the file cannot be read, or holds no link.
        """
        try:
            with self._path.open("rb") as file:
                content = file.read(_MAX_URL_BYTES)
        except OSError as error:
            raise UsageError(error.strerror or "cannot be read") from None
        return _parse(content)


def _relay(process: subprocess.Popen[bytes]) -> threading.Thread:
    """Hand on what `process` says on stderr, line by line, as long as anybody holds that open."""
    stream, process.stderr = process.stderr, None  # or its end would wait for the thread
    assert stream is not None  # noqa: S101 - asked for

    def hand_on() -> None:
        with stream, contextlib.suppress(OSError):  # ours may be closed
            for line in stream:
                os.write(2, without_secrets(line.decode(errors="replace")).encode())

    thread = threading.Thread(target=hand_on, name="url-command", daemon=True)
    thread.start()
    return thread


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    """End it and what it started; what it left behind when it was done by itself may go on."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _parse(output: bytes) -> PresignedTemplate:
    """The link on the first line that is not blank.

    Raises:
        UsageError: it is none; the message does not repeat it.
    """
    lines = output.decode("utf-8-sig", errors="replace").strip().splitlines()
    if not lines:
        raise UsageError("there is no link in it")
    return PresignedTemplate.parse(lines[0])


def _accept_all(_template: PresignedTemplate) -> None:
    pass
