"""The command `unshard`: finds the subcommand, and renders every error once."""

from __future__ import annotations

import atexit
import errno
import gc
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import click

from unshard import __version__
from unshard.cli.interrupts import kept_interrupts
from unshard.cli.stderr import Stderr
from unshard.errors import NoSpaceError, UnshardError

INTERRUPTED = 130
"""What a shell expects of a program that ended on Ctrl-C."""

YOUNG_OBJECTS = 100_000
"""Between two collections of cycles: opening a checkpoint makes a million objects that all stay,
and walking them again and again took a tenth of the time."""

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
MAKE_SPACE = "make space and run the same command again"

EXTRA_ARGUMENTS = "Got unexpected extra argument"
"""How click begins to list them: all 992 files where the shell expanded a pattern."""

COMMANDS: Mapping[str, str] = {
    "plan": "Forecast time, disk, memory and machines of all that follows.",
    "download": "Fetch a release from a presigned URL: parallel, resumable, verified.",
    "verify": "Compare files with a manifest; fetch again what differs.",
    "inspect": "Say what a checkpoint is: layout, model, tensors, bytes.",
    "reshard": "Write a checkpoint in another layout.",
    "metaseq": "metaseq's own reshard commands, flag for flag.",
    "fingerprint": "Digest the weights: the same in every layout.",
    "diff": "Compare two checkpoints tensor by tensor.",
    "generate": "Continue a prompt, or each prompt of a file.",
    "score": "Log-likelihood and perplexity of documents.",
    "serve": "Serve OpenAI's API and a playground, straight from any layout.",
    "demo": "Try the whole way on the bundled model.",
}
"""Each is `unshard.cli.NAME:command`, imported only when it is the one that was asked for."""


class LazyGroup(click.Group):
    """Lists all commands without importing them, so that `--help` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature)
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            alike = get_close_matches(cmd_name, COMMANDS, n=1)
            meant = f" Did you mean {alike[0]}?" if alike else ""
            ctx.fail(f"No such command {cmd_name!r}.{meant}")
        command: click.Command = importlib.import_module(f"unshard.cli.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Click would end the line of `^C`, on stderr, where with `--events` only events go."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            if ctx.ensure_object(Stderr).as_events:
                raise click.Abort from None
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="unshard")
def unshard() -> None:
    """From a presigned URL of sharded metaseq/OPT weights to a running API.

    `unshard demo` shows the whole way in a minute. SRC is always a folder, a file or a quoted
    pattern of a checkpoint in any layout.

    Exit codes: 0 done, 1 failed, 2 usage, 3 something is not what it claims, 4 needs a person,
    5 a process that shared the work died, 6 the engine died, 130 Ctrl-C.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; returns its exit code. Errors go to stderr in one line."""
    gc.set_threshold(YOUNG_OBJECTS)
    stderr = Stderr()
    try:
        with kept_interrupts():
            result = unshard.main(
                args=arguments, prog_name="unshard", standalone_mode=False, obj=stderr
            )
    except UnshardError as error:
        return stderr.error(error.message, error.hint, error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return stderr.interrupted(INTERRUPTED)
    except click.ClickException as error:
        return stderr.click_error(_short(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the exit flush fails
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        if error.errno in NO_SPACE:
            return stderr.error(f"{where}{error.strerror}", MAKE_SPACE, NoSpaceError.exit_code)
        return stderr.error(f"{where}{error.strerror or error}", None, 1)
    exit_code = result if isinstance(result, int) else 0
    stderr.ended(exit_code)
    return exit_code


def _short(error: click.ClickException) -> click.ClickException:
    if isinstance(error, click.MissingParameter):
        # Click lists choices on lines of their own, and an error is one line.
        told = error.format_message().replace(". Choose from:\n\t", ": ").replace(",\n\t", " or ")
        return click.UsageError(told, error.ctx)
    if not isinstance(error, click.UsageError) or not error.message.startswith(EXTRA_ARGUMENTS):
        return error
    return click.UsageError("more arguments than it takes; quote a pattern: 'raw/*.pt'", error.ctx)


atexit.register(gc.freeze)  # the last collections, of what goes anyway, took 0.2 s beside LLVM
