"""A TCP relay that delays and does not cap: `delaying_relay.py TARGET_PORT SECONDS` prints the port
that it listens on, and hands every byte on SECONDS after it came, each way. A new connection waits
a round trip more, as its handshake would. For `benchmarks/download.py`, where the kernel has no
netem; a program of its own, so that no contestant shares its interpreter.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from queue import SimpleQueue
from threading import Thread

BLOCK_BYTES = 256 * 1024
Waiting = SimpleQueue[tuple[float, bytes]]
"""When to send, on the monotonic clock, and what; no bytes are the end."""


def main() -> None:
    target, delay_s = int(sys.argv[1]), float(sys.argv[2])
    with socket.create_server(("127.0.0.1", 0), backlog=256) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            client, _ = server.accept()
            upstream = socket.create_connection(("127.0.0.1", target))
            relay(client, upstream, delay_s, handshake_s=2 * delay_s)
            relay(upstream, client, delay_s, handshake_s=0)


def relay(source: socket.socket, sink: socket.socket, delay_s: float, handshake_s: float) -> None:
    """One direction, in two threads: a slow reader must not hold up what comes."""
    sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    waiting: Waiting = SimpleQueue()
    opened = time.monotonic() + handshake_s
    Thread(target=receive, args=(source, waiting, delay_s, opened), daemon=True).start()
    Thread(target=send, args=(sink, waiting), daemon=True).start()


def receive(source: socket.socket, waiting: Waiting, delay_s: float, opened: float) -> None:
    block = b"first"
    while block:
        try:
            block = source.recv(BLOCK_BYTES)
        except OSError:
            block = b""
        waiting.put((max(time.monotonic(), opened) + delay_s, block))


def send(sink: socket.socket, waiting: Waiting) -> None:
    with contextlib.suppress(OSError):  # the other end left
        while True:
            due, block = waiting.get()
            time.sleep(max(due - time.monotonic(), 0))
            if not block:
                sink.shutdown(socket.SHUT_WR)
                return
            sink.sendall(block)


if __name__ == "__main__":
    main()
