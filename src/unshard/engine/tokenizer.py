"""Text to token ids and back, exactly as OPT was trained: GPT-2 byte BPE without specials.

metaseq encodes with no space in front, and `</s>` in a text is four plain characters, never
the token. Only `prompt_ids` brings in a special token: id 2, in front.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer as BPETokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from unshard.architectures.opt import BOS_TOKEN_ID
from unshard.engine.bpe_files import read_merges, read_vocab

PIECE_CHARACTERS = 1 << 16
"""Encoded at once, about: the library takes a hundred times that in bytes meanwhile."""
_SEAM = re.compile("(?<=[A-Za-z0-9]) (?=[A-Za-z0-9])")
"""Where no token goes across: a space in front of a word belongs to the word."""


class Tokenizer:
    """GPT-2 byte BPE. Safe to use from several threads at once.

    Ids that no text can reach have no text either: everything of `vocab` that is neither a
    byte nor the result of a merge (`<s>`, `<pad>`, `</s>`, `<unk>`, `<mask>`, `madeupword…`).
    """

    def __init__(self, vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> None:
        """`vocab` maps pieces in GPT-2's alphabet to ids; `merges`, best first, join two of them.
        Every merge's parts and result are in `vocab`."""
        self._bpe = BPETokenizer(BPE(dict(vocab), list(merges)))
        self._bpe.pre_tokenizer = ByteLevel(add_prefix_space=False)
        byte_of = _byte_of_character()
        with_text = {*byte_of, *(left + right for left, right in merges)}
        self._pieces = {token_id: piece for piece, token_id in vocab.items()}
        self._bytes = {
            token_id: bytes(byte_of[character] for character in piece)
            for token_id, piece in self._pieces.items()
            if piece in with_text
        }

    @classmethod
    def from_files(cls, vocab_path: Path, merges_path: Path) -> Tokenizer:
        """The tokenizer of a `gpt2-vocab.json` and a `gpt2-merges.txt`.

        Raises:
            FormatError: a file is not a vocabulary or not a list of merges of it.
        """
        vocab = read_vocab(vocab_path)
        return cls(vocab, read_merges(merges_path, vocab))

    @property
    def vocab_size(self) -> int:
        """One more than the largest id with a piece; a model may have more rows (padding)."""
        return 1 + max(self._pieces, default=-1)

    def encode(self, text: str) -> list[int]:
        """Ids of `text` as it is: no id in front, `</s>` in it is plain text."""
        ids: list[int] = []
        for piece in _pieces(text):
            # Of a batch, because that alone lets other threads run meanwhile.
            (encoded,) = self._bpe.encode_batch_fast([piece], add_special_tokens=False)
            ids += encoded.ids
        return ids

    def prompt_ids(self, text: str) -> tuple[int, ...]:
        """Ids of a prompt: `</s>` (id 2), then `text` with every line end made `\\n`."""
        return (BOS_TOKEN_ID, *self.encode(normalize_line_ends(text)))

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 bytes of one token, perhaps a part of a character; empty for an id without
        text."""
        return self._bytes.get(token_id, b"")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Bytes of the text of `ids`, joined."""
        return b"".join(map(self.token_bytes, ids))

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def display(self, token_id: int) -> str:
        """One token for a person: its text with U+FFFD for half characters, or its name
        (`</s>`, `madeupword0001`, `<id 50270>`) when it has no text."""
        if token_id in self._bytes:
            return self.decode([token_id])
        return self._pieces.get(token_id, f"<id {token_id}>")


def _pieces(text: str) -> Iterator[str]:
    """`text` in pieces that can be encoded apart."""
    start = 0
    while seam := _SEAM.search(text, start + PIECE_CHARACTERS):
        yield text[start : seam.start()]
        start = seam.start()
    yield text[start:]


def normalize_line_ends(text: str) -> str:
    """`\\r\\n` and `\\r` as `\\n`, as the original API did to prompts and stop strings."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)).difference(printable))
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(0x100 + number): byte for number, byte in enumerate(others)})
    return alphabet
