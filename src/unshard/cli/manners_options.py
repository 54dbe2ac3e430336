"""How `serve` treats its clients: the options of `docs/serving.md`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from unshard.cli.own_arguments import hide
from unshard.errors import UsageError
from unshard.server.manners import Manners

KEY_VARIABLE = "UNSHARD_API_KEY"
_DEFAULTS = Manners()

_COMMENT = re.compile(r"(^|\s)#.*")
_SECONDS = click.FloatRange(0, min_open=True)
_OPTIONS = (
    click.option(
        "--api-key",
        "api_keys",
        metavar="KEY",
        multiple=True,
        help="Ask clients for this key; repeatable. Better in a file, or in "
        f"{KEY_VARIABLE}: the list of processes shows arguments.",
    ),
    click.option(
        "--api-key-file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Keys, one a line; # begins a comment.",
    ),
    click.option(
        "--cors-origin",
        "cors_origins",
        metavar="ORIGIN",
        multiple=True,
        help="Let pages of this origin call the API; repeatable, * is any.",
    ),
    click.option(
        "--max-queue",
        type=click.IntRange(1),
        default=_DEFAULTS.max_queue,
        show_default=True,
        help="With so many generations waiting, calls get 429.",
    ),
    click.option(
        "--request-timeout",
        type=_SECONDS,
        metavar="SECONDS",
        help="End calls that take longer, with 504.  [default: never]",
    ),
    click.option(
        "--client-timeout",
        type=_SECONDS,
        metavar="SECONDS",
        default=_DEFAULTS.client_seconds,
        show_default=True,
        help="Cut clients that take longer to send a request, or to take what is sent.",
    ),
    click.option(
        "--drain-seconds",
        type=click.FloatRange(0),
        metavar="SECONDS",
        default=_DEFAULTS.drain_seconds,
        show_default=True,
        help="What running requests get after the signal to end.",
    ),
    click.option(
        "--access-log/--no-access-log",
        default=_DEFAULTS.access_log,
        show_default=True,
        help="Tell every request on stderr, as a line of JSON.",
    ),
    click.option("--log-prompts", is_flag=True, help="With the bodies of requests."),
)


def manners_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options, which arrive as keyword arguments of `chosen_manners`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def chosen_manners(
    *,
    api_keys: Sequence[str],
    api_key_file: Path | None,
    cors_origins: tuple[str, ...],
    max_queue: int,
    request_timeout: float | None,
    client_timeout: float,
    drain_seconds: float,
    access_log: bool,
    log_prompts: bool,
) -> Manners:
    """
    Raises:
        UsageError: a key or the file of keys is none.
    """
    if log_prompts and not access_log:
        raise UsageError(
            "--log-prompts without --access-log logs nothing", hint="give --access-log too"
        )
    hide(api_keys)
    return Manners(
        api_keys=_keys(api_keys, api_key_file),
        cors_origins=cors_origins,
        max_queue=max_queue,
        request_seconds=request_timeout,
        client_seconds=client_timeout,
        drain_seconds=drain_seconds,
        access_log=access_log,
        log_prompts=log_prompts,
    )


def _keys(given: Sequence[str], file: Path | None) -> tuple[str, ...]:
    # Taken out of the environment: processes that are started from here need no key.
    keys = {"--api-key": list(given), KEY_VARIABLE: os.environ.pop(KEY_VARIABLE, "").split()}
    if file is not None:
        keys[f"--api-key-file {file}"] = _lines(file)
    for source, found in keys.items():
        if not all(key.isascii() and key.isprintable() and key.split() == [key] for key in found):
            raise UsageError(f"{source}: a key is one or more ASCII characters without spaces")
    return tuple(dict.fromkeys(key for found in keys.values() for key in found))


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UsageError(f"--api-key-file {file}: {reason}") from error
    keys = [key for line in text.splitlines() if (key := _COMMENT.sub("", line).strip())]
    if not keys:
        # An empty file must not open the API to all.
        raise UsageError(f"--api-key-file {file}: holds no key")
    return keys
