"""The forms a prompt may have, made into what the engine takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unshard.architectures.opt import BOS_TOKEN_ID
from unshard.server.fields import PromptForm
from unshard.server.served import Tokenizer


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: `text` as the client knows it, `ids` as the model reads it."""

    text: str
    ids: tuple[int, ...]
    """Starts with `</s>`."""
    hides_bos: bool
    """The leading `</s>` is ours and not the client's, who is not to see it."""


def parse_prompts(form: PromptForm, tokenizer: Tokenizer) -> list[Prompt]:
    """The prompts of `form` in their order. A text is encoded as it is: `</s>` in it is plain
    characters and line ends stay, so that a client that tokenises for itself counts the same."""
    if isinstance(form, str):
        return [_of_text(form, tokenizer)]
    items: list[int | str | list[int]] = [*form]
    ids = [item for item in items if isinstance(item, int)]
    if ids:
        return [prompt_of_ids(ids, tokenizer)]
    return [
        _of_text(item, tokenizer) if isinstance(item, str) else prompt_of_ids(item, tokenizer)
        for item in items
        if not isinstance(item, int)
    ]


def _of_text(text: str, tokenizer: Tokenizer) -> Prompt:
    return Prompt(text, (BOS_TOKEN_ID, *tokenizer.encode(text)), hides_bos=True)


def prompt_of_ids(ids: Sequence[int], tokenizer: Tokenizer) -> Prompt:
    """The prompt that the model reads for `ids`: they, and `</s>` in front."""
    text = tokenizer.decode(ids)
    if ids and ids[0] == BOS_TOKEN_ID:
        return Prompt(text, tuple(ids), hides_bos=False)
    return Prompt(text, (BOS_TOKEN_ID, *ids), hides_bos=True)
