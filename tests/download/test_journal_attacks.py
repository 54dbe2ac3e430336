"""Lines of a journal that somebody else wrote cost time at most, and no answer is believed that
the file itself does not bear out."""

from __future__ import annotations

import json

import pytest

from unshard.download.journal import Journal
from unshard.download.partway import Begun, Partway, boot_id
from unshard.download.spans import Spans
from unshard.finished import JOURNAL_NAME, Finished, parse_line, remembered
from unshard.manifest import Digest

DEEP = [b"[" * 200_000, b'{"a":' * 200_000, b'{"finished": ' + b"[" * 200_000]
ODD = [
    b"1" * 10_000,
    b'{"begun": "a.pt", "size_bytes": ' + b"9" * 10_000 + b', "etag": null}',
    b'{"begun": "a.pt", "size_bytes": 1e400, "etag": null}',
    b'{"begun": ["a.pt"], "size_bytes": 1, "etag": null}',
    b'{"begun": "a.pt", "size_bytes": "1", "etag": null}',
    b'{"begun": "a.pt", "size_bytes": 1, "etag": 5}',
    b'{"finished": "a.pt", "size_bytes": 1}',
    b"\xff\xfe\x00",
    b"\xed\xa0\x80",
    b"null",
    b"",
]


@pytest.mark.parametrize("line", DEEP)
def test_a_line_nested_deeper_than_any_stack_is_a_lost_line(line):
    assert parse_line(line) is None


@pytest.mark.parametrize("line", [*DEEP, *ODD], ids=lambda line: line[:24])
def test_an_odd_line_says_nothing_and_hides_no_other(tmp_path, line):
    known = Finished(7, 8, Digest("md5", "14284cd62d00166bf4a16b7ac43b4946"))
    good = json.dumps(known.line("b.pt")).encode()
    (tmp_path / JOURNAL_NAME).write_bytes(b"\n".join([line, good, line]))
    with Journal(tmp_path) as journal:
        assert journal.finished("a.pt") is None
        assert journal.finished("b.pt") == known
    assert remembered(tmp_path) == {"b.pt": known}


@pytest.mark.parametrize("line", [*DEEP, *ODD], ids=lambda line: line[:24])
def test_a_download_goes_on_whatever_its_journal_says(site, line):
    site.add("a.pt")
    site.target.mkdir()
    (site.target / JOURNAL_NAME).write_bytes(line)
    (site.target / "a.pt.partial").write_bytes(b"x" * 1000)
    site.run()
    assert site.fetched() == site.contents


@pytest.mark.parametrize("is_ranged", [False, True])
@pytest.mark.parametrize("size", [-1, 0, True, 2**53, 2**70])
def test_a_size_that_cannot_be_costs_nothing_but_the_partial(site, size, is_ranged):
    site.add("a.pt")
    site.target.mkdir()
    partway = Partway(Begun(size, '"e"'), is_ranged, Spans(((0, 1000),)))
    lines = [{"boot": boot_id()}, partway.line("a.pt")]
    (site.target / JOURNAL_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (site.target / "a.pt.partial").write_bytes(site.contents["a.pt"][:1000])
    site.run()
    assert site.fetched() == site.contents
