"""Lines in and answers out: what is wrong with a line is the line's, what was written is kept."""

import io
import json
import os
from pathlib import Path

import pytest

from unshard.errors import DestinationError, FormatError, NoSpaceError, UsageError
from unshard.library.answer_lines import AnswerLines, answers_in
from unshard.library.input_lines import Input

ANSWERS = [{"id": 1, "text": "ä\n"}, {"id": "b", "error": {"message": "x"}}, {"id": 3, "text": ""}]


def written(path, answers):
    with answers_in(path) as lines:
        assert list(lines.kept()) == []
        for answer in answers:
            lines.write(answer)
    return path.read_bytes()


def test_a_run_killed_at_any_byte_goes_on_as_if_it_was_not(tmp_path):
    path = tmp_path / "out.jsonl"
    whole = written(path, [*ANSWERS, {"total": {"n": 3}}])
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        with answers_in(path) as lines:
            kept = list(lines.kept())
            assert kept == ANSWERS[: len(kept)]
            for answer in [*ANSWERS[len(kept) :], {"total": {"n": 3}}]:
                lines.write(answer)
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "content",
    [
        b"my notes\n",
        b"my notes, without an end",
        b'{"text": "no id"}\n',
        b'{"id": 1, "text": }\n',
        b'{"id": 1}\n\n{"id": 2}\n',
        b'{"total": {}}\n{"id": 1}\n',
        b'{"total": {}}\nmore',
    ],
)
def test_a_file_of_something_else_is_refused_and_stays(tmp_path, content):
    path = tmp_path / "out.jsonl"
    path.write_bytes(content)
    with answers_in(path) as lines, pytest.raises(FormatError, match=r"out\.jsonl, line \d"):
        list(lines.kept())
    assert path.read_bytes() == content


def test_one_process_writes_at_a_time(tmp_path):
    path = tmp_path / "out.jsonl"
    with (
        answers_in(path),
        pytest.raises(DestinationError, match="another process"),
        answers_in(path),
    ):
        pass
    with answers_in(path) as lines:
        assert list(lines.kept()) == []


def test_what_cannot_be_written_is_said(tmp_path):
    with pytest.raises(DestinationError, match="cannot be written"), answers_in(tmp_path):
        pass
    with (
        Path("/dev/full").open("wb", buffering=0) as full,
        pytest.raises(NoSpaceError, match="full"),
    ):
        AnswerLines("out", full).write({"id": 1})


def test_a_stream_that_takes_part_of_a_line_gets_the_rest():
    class Narrow(io.BytesIO):
        def write(self, data):
            return super().write(data[:3])

    stream = Narrow()
    AnswerLines("out", stream).write({"id": 1, "text": "a long line"})
    assert json.loads(stream.getvalue()) == {"id": 1, "text": "a long line"}


def lines_of(tmp_path, content, form):
    path = tmp_path / "in.jsonl"
    path.write_bytes(content)
    given = Input.open(os.fspath(path))
    assert given.num_bytes == len(content)
    return list(getattr(given, form)())


def test_every_line_of_text_is_a_document_and_all_bytes_count(tmp_path):
    content = "one\r\n\ntwo\x0b\u2028\rthree\nö".encode()
    lines = lines_of(tmp_path, content, "text_lines")
    assert [each.text("text") for each in lines] == ["one", "", "two\x0b\u2028\rthree", "ö"]
    assert [each.id for each in lines] == [1, 2, 3, 4]
    assert sum(each.num_bytes for each in lines) == len(content)


def test_a_whole_file_is_kept_as_it_is(tmp_path):
    [whole] = lines_of(tmp_path, b"one\r\ntwo\n", "whole")
    assert (whole.text("text"), whole.num_bytes) == ("one\r\ntwo\n", 9)


def test_bytes_that_are_no_text_are_their_lines_error(tmp_path):
    good, bad, last = lines_of(tmp_path, b"a\n\xff\nb\n", "text_lines")
    assert (good.error, last.error) == (None, None)
    assert "line 2: is not UTF-8 text" in bad.error.message


def test_json_lines_have_ids_and_errors_of_their_own(tmp_path):
    content = b'{"id": null, "text": "a"}\n\n{"id": "x", "text": "b"}\n'
    content += b'[1]\n{"id": 7, "text": 3}\n{"id": true}\n'
    a, b, array, number, boolean = lines_of(tmp_path, content, "json_lines")
    assert [each.id for each in (a, b, array, number, boolean)] == [1, "x", 4, 7, 6]
    assert (a.text("text"), b.text("text")) == ("a", "b")
    assert "line 4: is not a JSON object" in array.error.message
    assert "neither a string nor an integer" in boolean.error.message
    with pytest.raises(FormatError, match="line 5: the field text is not a string"):
        number.text("text")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="missing: no such file"):
        Input.open("missing")
    with pytest.raises(UsageError, match="is not a file"):
        Input.open(str(tmp_path))
