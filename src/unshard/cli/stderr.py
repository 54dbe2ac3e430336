"""What a command says on stderr besides its progress: in words, or as events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from unshard.cli.events import event_line
from unshard.cli.printable import printable
from unshard.redaction import without_secrets


@dataclass(slots=True)
class Stderr:
    """How one command line speaks; click's object of the context, so that `main` has it too."""

    as_events: bool = False

    def note(self, line: str) -> None:
        """Something that a person wants to know before the work begins or after it ended."""
        line = without_secrets(line)
        told = event_line("note", text=line) if self.as_events else line + "\n"
        click.echo(told, nl=False, err=True)

    def error(self, message: str, hint: str | None, exit_code: int) -> int:
        """The last line of a command that failed; returns `exit_code`. It may repeat an argument,
        and a link stands now and then where something else belongs."""
        message, hint = without_secrets(message), without_secrets(hint) if hint else None
        if self.as_events:
            fields = {"message": message, "hint": hint, "exit_code": exit_code}
            click.echo(event_line("error", **fields), nl=False, err=True)
            return exit_code
        click.echo(f"error: {printable(message)}", err=True)
        if hint:
            click.echo(f"hint: {printable(hint)}", err=True)
        return exit_code

    def click_error(self, error: click.ClickException) -> int:
        """The same for a command line that click does not understand."""
        if isinstance(error, click.exceptions.NoArgsIsHelpError) and not self.as_events:
            error.show()
            return error.exit_code
        context = error.ctx if isinstance(error, click.UsageError) else None
        hint = f"see `{context.command_path} --help`" if context else None
        return self.error(error.format_message().removesuffix("."), hint, error.exit_code)

    def interrupted(self, exit_code: int) -> int:
        """The same for one that Ctrl-C ended."""
        if self.as_events:
            return self.error("interrupted", None, exit_code)
        click.echo("interrupted", err=True)
        return exit_code

    def ended(self, exit_code: int) -> None:
        """The last event of a command that did not fail."""
        if self.as_events:
            click.echo(event_line("end", exit_code=exit_code), nl=False, err=True)


def current() -> Stderr:
    """That of the command that runs."""
    context = click.get_current_context(silent=True)
    return (context and context.find_object(Stderr)) or Stderr()


def _choose(context: click.Context, _option: click.Parameter, as_events: bool) -> None:
    context.ensure_object(Stderr).as_events = as_events


events_option: Callable[..., Any] = click.option(
    "--events",
    is_flag=True,
    is_eager=True,  # what is wrong with the other options is told as an event too
    expose_value=False,
    callback=_choose,
    help="Tell progress, notes and the error on stderr as JSON, one object a line.",
)
