"""Retry-After comes as seconds or as a date; anything else asks for nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from unshard.download.content import refusal
from unshard.download.response import InterruptedTransferError, Response
from unshard.download.url import PresignedTemplate

TEMPLATE = PresignedTemplate.parse("https://host/folder/a.pt")


def wait_asked_by(value: str) -> float | None:
    error = refusal("a.pt", Response(503, {"Retry-After": value}, iter(())), TEMPLATE)
    assert isinstance(error, InterruptedTransferError)
    return error.retry_after_s


def test_seconds():
    assert wait_asked_by("0") == 0
    assert wait_asked_by("120") == 120


def test_a_date():
    later = datetime.now(UTC) + timedelta(seconds=300)
    assert wait_asked_by(format_datetime(later, usegmt=True)) == pytest.approx(300, abs=30)
    assert wait_asked_by("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert wait_asked_by("Wed, 21 Oct 2015 07:28:00 -0000") == 0


@pytest.mark.parametrize("value", ["", "soon", "-5", "1.5", "²", "Wed, 99 Foo 2015 07:28:00 GMT"])
def test_nonsense(value):
    assert wait_asked_by(value) is None


@pytest.mark.parametrize("value", ["Wed, 21 Oct 9999 23:59:59 -2359", "1" * 400])
def test_the_far_future_does_not_raise(value):
    wait_asked_by(value)
