"""The targets of fuzzing hold for sound inputs, and notice when a law is broken."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # the tools are no part of the package

from tools.fuzz import answers, downloads, requests, seeds
from tools.fuzz.scratch import scratch
from tools.fuzz.targets import TARGETS

from unshard.download import content, journal
from unshard.download.spans import Spans
from unshard.errors import UnshardError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def ended() -> Iterator[None]:
    yield
    logging.disable(logging.NOTSET)
    requests.engine().close()
    downloads.site().store.close()
    answers.server().close()
    scratch().close()


@pytest.mark.parametrize("name", TARGETS)
def test_sound_inputs_and_some_others_are_taken(name: str, tmp_path: Path) -> None:
    seeds.write_seeds(name, tmp_path)
    chance = random.Random(0)
    inputs = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    mutated = [TARGETS[name].mutated(chance.choice(inputs), chance) for _ in range(20)]
    assert set(mutated) - set(inputs)
    for data in (b"", b"\0", *inputs, *mutated):
        TARGETS[name].run(data)


def test_a_journal_that_is_told_by_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "parse_line", lambda line: {"begun": line.decode()})
    with pytest.raises(UnicodeDecodeError):
        downloads.journal(b"\xff")


def test_a_hole_that_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest finds it out in the end, but the journal must not have said so."""
    monkeypatch.setattr(Spans, "below", lambda spans, _limit: Spans(((0, 2**40),)))
    with pytest.raises((AssertionError, UnshardError)):
        downloads.journal(seeds.journals()[1])


def test_an_answer_that_is_told_by_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "_seconds_to_wait", int)
    with pytest.raises(ValueError, match="soon"):
        answers.answer(b"\0HTTP/1.1 503 No\r\nRetry-After: soon\r\nContent-Length: 0\r\n\r\n")


def test_a_manifest_that_is_written_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "sum_lines", lambda _manifest: "0" * 32 + "  x")
    with pytest.raises(AssertionError):
        downloads.manifest(seeds.manifests()[0])


def test_an_answer_of_500(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(requests.ByteTokenizer, "encode", broken)
    with pytest.raises(AssertionError, match="the server failed"):
        requests.body(seeds.bodies()[9])
