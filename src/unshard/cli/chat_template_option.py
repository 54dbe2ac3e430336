"""`--chat-template FILE|TEXT`."""

from __future__ import annotations

from pathlib import Path

from unshard.errors import UsageError


def template_text(option: str) -> str:
    """The template that `option` names, or is.

    Raises:
        UsageError: it is neither a file that can be read nor a template.
    """
    if "{{" in option or "{%" in option:
        return option
    try:
        return Path(option).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{option}: not UTF-8 text") from error
    except OSError as error:
        raise UsageError(
            f"{option}: {error.strerror}",
            hint="--chat-template takes a file, or a template with {{ … }} or {% … %} in it",
        ) from error
