"""Laws of the tokenizer: lossless, without specials in text, equal to plain byte BPE."""

import json
import threading
from itertools import pairwise

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

import unshard.engine.tokenizer as module
from unshard.engine.tokenizer import Tokenizer
from unshard.errors import FormatError

GPT2_WORDS = regex.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)
VOCAB_FILE, MERGES_FILE = "gpt2-vocab.json", "gpt2-merges.txt"
TINY_VOCAB = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "b": 5, "ab": 6}


def plain_bpe(text, ranks):
    """Byte BPE in its simplest form: join the best-ranked neighbours until none is ranked."""
    for word in GPT2_WORDS.findall(text):
        parts = [bytes([byte]) for byte in word.encode()]
        while True:
            pairs = list(pairwise(parts))
            best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)), default=None)
            if best not in ranks:
                break
            joined, i = [], 0
            while i < len(parts):
                if tuple(parts[i : i + 2]) == best:
                    joined.append(parts[i] + parts[i + 1])
                    i += 2
                else:
                    joined.append(parts[i])
                    i += 1
            parts = joined
        yield from parts


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(text=texts)
def test_text_survives(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(text=texts | st.text("the and 'll\n12", max_size=40))
def test_tokens_are_those_of_plain_byte_bpe(tokenizer, merges, text):
    assert list(map(tokenizer.token_bytes, tokenizer.encode(text))) == list(plain_bpe(text, merges))


@given(text=texts | st.text("ab1 \t\n'é,", max_size=60), size=st.integers(1, 9))
def test_a_long_text_in_pieces_has_the_tokens_of_the_whole(tokenizer, text, size):
    whole = tokenizer.encode(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE_CHARACTERS", size)
        assert tokenizer.encode(text) == whole
        assert "".join(module._pieces(text)) == text


def test_a_text_with_spaces_is_encoded_in_pieces():
    words = "word " * module.PIECE_CHARACTERS
    assert all(len(piece) < module.PIECE_CHARACTERS + 9 for piece in module._pieces(words))
    assert "".join(module._pieces(words)) == words


def test_others_run_while_a_long_text_is_encoded(tokenizer):
    encoding = threading.Thread(target=tokenizer.encode, args=("ab " * 200_000,))
    encoding.start()
    turns = 0
    while encoding.is_alive():
        encoding.join(0.001)
        turns += 1
    assert turns > 10  # hundreds; 2 where the encoder lets nobody else run


def write(folder, vocab, merges):
    paths = folder / VOCAB_FILE, folder / MERGES_FILE
    paths[0].write_text(vocab if isinstance(vocab, str) else json.dumps(vocab))
    paths[1].write_text(merges)
    return paths


def test_special_tokens_in_text_are_plain_characters(tokenizer):
    for special in ("<s>", "<pad>", "</s>", "<unk>", "madeupword0000"):
        ids = tokenizer.encode(special)
        assert len(ids) > 1
        assert tokenizer.decode(ids) == special


def test_a_prompt_begins_with_eos_and_has_unix_line_ends(tokenizer):
    assert tokenizer.prompt_ids("") == (2,)
    assert tokenizer.prompt_ids("a\r\nb\rc\n") == (2, *tokenizer.encode("a\nb\nc\n"))


def test_ids_without_text_decode_to_nothing_and_have_names(tmp_path):
    vocab = {**TINY_VOCAB, "madeupword0000": 7}
    tokenizer = Tokenizer.from_files(*write(tmp_path, vocab, "#version: 0.2\na b\n"))
    assert tokenizer.vocab_size == 8
    assert tokenizer.encode("abab") == [6, 6]
    assert tokenizer.decode([0, 1, 2, 6, 3, 7, 4, 1234]) == "aba"
    assert [tokenizer.display(i) for i in (2, 6, 7, 1234)] == [
        "</s>",
        "ab",
        "madeupword0000",
        "<id 1234>",
    ]


def test_half_characters_are_bytes_and_show_as_replacement(tokenizer):
    ids = tokenizer.encode("\U0001f389")
    assert len(ids) > 1
    assert tokenizer.decode_bytes(ids) == "\U0001f389".encode()
    assert "\ufffd" in tokenizer.display(ids[0])


@pytest.mark.parametrize(
    ("vocab", "merges", "name"),
    [
        ("{", "a b\n", VOCAB_FILE),
        ("[]", "a b\n", VOCAB_FILE),
        ({"a": "0"}, "", VOCAB_FILE),
        ({"a": True}, "", VOCAB_FILE),
        ({"a": -1}, "", VOCAB_FILE),
        ({"a": 1, "b": 1}, "", VOCAB_FILE),
        (TINY_VOCAB, "a b c\n", MERGES_FILE),
        (TINY_VOCAB, "a\n", MERGES_FILE),
        (TINY_VOCAB, "b a\n", MERGES_FILE),
        (TINY_VOCAB, "a z\n", MERGES_FILE),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, vocab, merges, name):
    with pytest.raises(FormatError, match=name):
        Tokenizer.from_files(*write(tmp_path, vocab, merges))
