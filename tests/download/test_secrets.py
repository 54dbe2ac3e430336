"""The query of the URL goes over the wire exactly, and nowhere else."""

from __future__ import annotations

import gc
import io
import logging
import traceback

import pytest
import urllib3

from unshard.download import PresignedTemplate, RetryPolicy, download
from unshard.download.response import InterruptedTransferError
from unshard.download.transport import Transport
from unshard.errors import LinkRefusedError, TransferError, UnshardError
from unshard.testing.object_store import Fault


def everything_said(error: BaseException | None) -> str:
    """An error as it could reach anybody: text, repr, hint, traceback, causes and contexts."""
    said = ""
    while error is not None:
        said += f"{error} {error!r} {getattr(error, 'hint', '')} {vars(error)}"
        said += "".join(traceback.format_exception(error))
        error = error.__cause__ or error.__context__
    return said


@pytest.mark.parametrize(
    "fault",
    [
        Fault(cut_after=0),
        Fault(status=403),
        Fault(status=404),
        Fault(status=503),
        Fault(stall_after=0),
        Fault(html=True),
        Fault(wrong_bytes=True),
    ],
)
def test_no_failure_says_the_secret(site, fault, caplog, capfd):
    caplog.set_level(logging.DEBUG)  # urllib3 logs each request line at this level
    site.add("a.pt")
    site.store.inject(fault, times=None)
    with pytest.raises(UnshardError) as e:
        site.run(retry=RetryPolicy(attempts=2, first_delay_s=0), stall_timeout_s=0.1)
    kept = b"".join(path.read_bytes() for path in site.target.iterdir())
    told = "\n".join(site.progress.notes) + everything_said(e.value) + caplog.text
    told += "".join(capfd.readouterr()) + kept.decode(errors="replace")
    template = PresignedTemplate.parse(site.url)
    assert "a.pt" in told
    assert "/weights/a.pt" in caplog.text
    for secret in (template.query, site.secret, "Signature"):
        assert secret not in told


def test_a_server_that_cannot_be_reached_says_no_secret(site, unused_tcp_port_url):
    template = PresignedTemplate.parse(unused_tcp_port_url)
    with pytest.raises(TransferError, match="cannot connect") as e:
        download(template, ["a.pt"], site.target, retry=RetryPolicy(attempts=1))
    assert "topsecret" not in everything_said(e.value)


@pytest.fixture
def unused_tcp_port_url(site):
    site.store.close()
    return f"{site.store.origin}/stubbed.pt?&Expires=1&Signature=topsecret&Key-Pair-Id=k"


def test_a_success_leaves_no_secret_behind(site, caplog):
    caplog.set_level(logging.DEBUG)
    site.add("a.pt", "b.pt")
    report = site.run()
    kept = [path.read_bytes().decode(errors="replace") for path in site.target.iterdir()]
    assert len(kept) == 3
    for text in (*kept, repr(report), caplog.text, *site.progress.notes):
        assert site.secret not in text


def test_the_query_arrives_byte_for_byte(site):
    site.add("a.pt")
    query = "&lower=%2f%3d&pipes=|{}^`[]&tilde=~-_.&plus=a+b&empty=&twice=1&twice=2&Signature=x"
    template = PresignedTemplate.parse(f"{site.store.origin}/weights/stubbed.pt?{query}")
    with pytest.raises(LinkRefusedError):
        download(template, ["a.pt"], site.target)
    assert [request.query for request in site.store.requests] == [query]


def test_the_clients_own_exceptions_are_gone(site):
    """urllib3's exceptions hold pool and URL; ours must not keep them alive."""
    site.add("a.pt")
    site.store.inject(Fault(cut_after=100))
    template = PresignedTemplate.parse(site.url)
    with Transport(max_connections=1, stall_timeout_s=5) as transport:
        with (
            pytest.raises(InterruptedTransferError) as e,
            transport.get(template, "a.pt", {}) as response,
        ):
            response.body()
        assert e.value.__cause__ is e.value.__context__ is None
    gc.collect()
    assert not [o for o in gc.get_objects() if issubclass(type(o), urllib3.exceptions.HTTPError)]


def test_a_template_in_a_formatted_log_record_shows_nothing(site):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    record = logging.LogRecord(
        "x", 10, "", 0, "%s %r", (PresignedTemplate.parse(site.url),) * 2, None
    )
    handler.emit(record)
    assert "stubbed.pt?…" in stream.getvalue()
    assert site.secret not in stream.getvalue()
