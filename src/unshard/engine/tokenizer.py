"""Text to token ids and back, exactly as OPT was trained: GPT-2 byte BPE without specials.

metaseq encodes with fairseq's GPT-2 BPE: no space in front, and `</s>` in a text is four
plain characters, never the token. Only `prompt_ids` brings in a special token: id 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as BPETokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from unshard.architectures.opt import BOS_TOKEN_ID
from unshard.errors import UsageError

VOCAB_FILE = "gpt2-vocab.json"
MERGES_FILE = "gpt2-merges.txt"

SPECIAL_TOKENS = frozenset({"<s>", "<pad>", "</s>", "<unk>", "<|endoftext|>", "<mask>"})
MADEUP_PREFIX = "madeupword"


def _bytes_of_characters() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(0x100 + i): byte for i, byte in enumerate(others)})
    return alphabet


class Tokenizer:
    """GPT-2 byte BPE over a folder with `gpt2-vocab.json` and `gpt2-merges.txt`.

    Safe to use from several threads at once.
    """

    def __init__(self, bpe: BPETokenizer) -> None:
        self._bpe = bpe
        byte_of = _bytes_of_characters()
        self._bytes_of_id: dict[int, bytes] = {}
        self._special: dict[int, str] = {}
        for piece, token_id in bpe.get_vocab().items():
            if piece in SPECIAL_TOKENS or piece.startswith(MADEUP_PREFIX):
                self._special[token_id] = piece
            elif all(character in byte_of for character in piece):
                self._bytes_of_id[token_id] = bytes(byte_of[character] for character in piece)

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """The tokenizer of `folder`.

        Raises:
            UsageError: a file is missing there, or is not a vocabulary or a list of merges.
        """
        vocab, merges = folder / VOCAB_FILE, folder / MERGES_FILE
        for path in (vocab, merges):
            if not path.is_file():
                raise UsageError(
                    f"{folder}: no {path.name} there",
                    hint=f"name a folder with {VOCAB_FILE} and {MERGES_FILE}; metaseq publishes"
                    " both under projects/OPT/assets",
                )
        bpe = BPETokenizer(_read_model(folder, vocab, merges))
        # transformers and metaseq both leave the text as it is: no space in front.
        bpe.pre_tokenizer = ByteLevel(add_prefix_space=False)
        return cls(bpe)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id with a piece; a model may have more rows (padding)."""
        return 1 + max([*self._bytes_of_id, *self._special], default=-1)

    def encode(self, text: str) -> list[int]:
        """Ids of `text` as it is: no id in front, `</s>` in it is plain text."""
        ids: list[int] = self._bpe.encode(text, add_special_tokens=False).ids
        return ids

    def prompt_ids(self, text: str) -> tuple[int, ...]:
        """Ids of a prompt: `</s>` (id 2), then `text` with every line end made `\\n`."""
        return (BOS_TOKEN_ID, *self.encode(normalize_line_ends(text)))

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 bytes of one token, perhaps a part of a character; empty for an id without text
        (`<s>`, `<pad>`, `</s>`, `<unk>`, `madeupword…`, padding rows)."""
        return self._bytes_of_id.get(token_id, b"")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Bytes of the text of `ids`, joined."""
        return b"".join(map(self.token_bytes, ids))

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def display(self, token_id: int) -> str:
        """One token for a person or a `logprobs` object: its text with U+FFFD for half
        characters, or its name (`</s>`, `madeupword0003`, `<id 50270>`) when it has no text."""
        if token_id in self._bytes_of_id:
            return self.decode([token_id])
        return self._special.get(token_id, f"<id {token_id}>")


def normalize_line_ends(text: str) -> str:
    """`\\r\\n` and `\\r` as `\\n`, as the original API did to prompts and stop strings."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_model(folder: Path, vocab: Path, merges: Path) -> BPE:
    # The library raises a plain Exception for any malformed file, so its parser cannot be
    # told apart from other failures by type: the files are read by its own static reader,
    # whose only failure is a malformed file.
    raise NotImplementedError
