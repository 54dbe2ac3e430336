"""Runs the API until a signal ends it, leaving nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from unshard.errors import UnshardError
from unshard.server.app import create_app
from unshard.server.connection import connection_class
from unshard.server.generation import Generations
from unshard.server.manners import Manners
from unshard.server.served import ServedModel

_LAST_WORDS_SECONDS = 1
"""How long they may then take to tell their clients."""


def bind(host: str, port: int) -> socket.socket:
    """A socket that owns `port` but refuses connections until `run` has it. Port 0 is a free one.

    Raises:
        UnshardError: the port is taken, or `host` is no address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's delay (40 ms per small answer) off only where the protocol is named.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (
        OSError,
        UnicodeError,
        TypeError,
    ) as error:  # the second for a host that is no name at all
        bound.close()
        raise _cannot_listen(host, port, error) from error
    return bound


def url_of(bound: socket.socket) -> str:
    """The address clients use for `bound`."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(
    served: ServedModel,
    bound: socket.socket,
    *,
    on_ready: Callable[[], None],
    on_drain: Callable[[int], None] | None = None,
    manners: Manners | None = None,
) -> None:
    """Serve on `bound` until SIGTERM or SIGINT, or until the engine dies; a second signal cuts
    the grace short.

    `on_ready` is called when connections are accepted, `on_drain` with the number of requests that
    a signal finds unanswered, if any: they are waited for. On return the engine is closed.

    Raises:
        UnshardError: somebody else listens on the port since `bind`.
    """
    manners = manners or Manners()
    _allow_many_connections()
    generations = Generations(served.engine, manners)
    logging.getLogger("asyncio").addFilter(_is_no_late_write)
    config = uvicorn.Config(
        create_app(served, generations, manners),
        http=connection_class(manners.client_seconds),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",  # warnings are of strangers' rubbish, a line for each
        access_log=False,
        server_header=False,
    )
    try:
        host, port = bound.getsockname()[:2]
        try:
            bound.listen()
        except OSError as error:
            raise _cannot_listen(host, port, error) from error
        server = _Server(config, generations, manners.drain_seconds, on_ready, on_drain)
        served.engine.on_loss(server.end_now)
        server.run(sockets=[bound])
    finally:
        bound.close()
        served.engine.close()


def _allow_many_connections() -> None:
    """As many files as this user may have, where a process begins with 1024: so many clients that
    do nothing would keep all others out."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _is_no_late_write(record: logging.LogRecord) -> bool:
    """Whether `record` tells of more than a client that went in the middle of several events:
    asyncio warns of each from the sixth on."""
    return record.msg != "socket.send() raised exception."


class _Server(uvicorn.Server):
    """Ends requests with an answer instead of a cut, and the process with status 0."""

    def __init__(
        self,
        config: uvicorn.Config,
        generations: Generations,
        grace_seconds: float,
        on_ready: Callable[[], None],
        on_drain: Callable[[int], None] | None,
    ) -> None:
        super().__init__(config)
        self._generations = generations
        self._grace_seconds = grace_seconds
        self._on_ready = on_ready
        self._on_drain = on_drain
        self._loop: asyncio.AbstractEventLoop | None = None
        self._has_lost_engine = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        if self._has_lost_engine:
            self._abort()
        self._on_ready()

    def end_now(self) -> None:
        """End without grace, since nothing can be generated any more. From any thread."""
        self._has_lost_engine = self.should_exit = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended meanwhile
                self._loop.call_soon_threadsafe(self._abort)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._generations.ending = True
        num_open = self._generations.metrics.num_open
        if self._on_drain and num_open and not self._has_lost_engine:
            self._on_drain(num_open)
        asyncio.get_running_loop().call_later(self._grace_seconds, self._abort)
        await super().shutdown(sockets)

    def handle_exit(self, _sig: int, _frame: FrameType | None) -> None:
        # The base class would raise the signal again at the end, and on the second one leave
        # requests behind.
        if self.should_exit and self._loop is not None:
            self._loop.call_soon_threadsafe(self._abort)
        self.should_exit = True

    def _abort(self) -> None:
        self._generations.abort()
        asyncio.get_running_loop().call_later(_LAST_WORDS_SECONDS, self._hang_up)

    def _hang_up(self) -> None:
        # Whoever is left does not read its answer or never sent its whole request.
        for connection in self.server_state.connections:
            connection.transport.abort()


def _cannot_listen(host: str, port: int, error: Exception) -> UnshardError:
    return UnshardError(
        f"cannot listen on {host} port {port}: {getattr(error, 'strerror', None) or error}",
        hint="name another --host or --port; --port 0 takes a free one",
    )
