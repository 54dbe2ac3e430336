"""TLS over two sockets in one process: the bytes are the same however they arrive."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading

import pytest

from unshard.download.tls import RECEIVE_BYTES, TlsStream

BODY = bytes(range(256)) * (4 * RECEIVE_BYTES // 256) + b"end"


def connected(certificate, serve):
    """A client's stream to a server that does `serve(its end)` in a thread, and the thread."""
    ours, theirs = socket.socketpair()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*certificate)

    def run():
        with theirs, server.wrap_socket(theirs, server_side=True) as end:
            serve(end)

    thread = threading.Thread(target=run)
    thread.start()
    client = ssl.create_default_context(cafile=certificate[0])
    ours.settimeout(10)
    return TlsStream(ours, client, "127.0.0.1"), thread


def read_all(stream, size):
    found, buffer = bytearray(), bytearray(size)
    while count := stream.recv_into(buffer):
        found += buffer[:count]
    return bytes(found)


@pytest.mark.parametrize("size", [5000, 2**14, 2**18, 2**21])
def test_every_byte_comes_once_and_then_the_end(certificate, size):
    def serve(end):
        end.sendall(BODY)
        with contextlib.suppress(OSError):  # we do not say goodbye
            end.unwrap()

    stream, thread = connected(certificate, serve)
    assert read_all(stream, size) == BODY
    assert stream.recv_into(bytearray(9)) == 0
    stream.close()
    thread.join()


def test_an_end_without_a_goodbye_is_an_end(certificate):
    stream, thread = connected(certificate, lambda end: end.sendall(BODY))
    assert read_all(stream, 2**18) == BODY
    stream.close()
    thread.join()


def test_what_came_before_a_broken_record_is_kept_and_then_it_is_told(certificate):
    def serve(end):
        end.sendall(b"good")
        socket.socket.sendall(end, b"\x17\x03\x03\x00\x20" + bytes(32))

    stream, thread = connected(certificate, serve)
    buffer, found = bytearray(99), b""
    with pytest.raises(ssl.SSLError):  # noqa: PT012 - how often it reads before, nobody knows
        while count := stream.recv_into(buffer):
            found += bytes(buffer[:count])
    assert found == b"good"
    stream.close()
    thread.join()
