"""Runs the API until a signal ends it, leaving nothing behind."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from unshard.errors import UnshardError
from unshard.server.app import create_app
from unshard.server.generation import Generations
from unshard.server.served import ServedModel

GRACE_SECONDS = 3
"""How long requests may go on after the first signal."""
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
    grace_seconds: float = GRACE_SECONDS,
) -> None:
    """Serve on `bound` until SIGTERM or SIGINT; a second one cuts the grace short.

    `on_ready` is called when connections are accepted. On return the engine is closed.

    Raises:
        UnshardError: somebody else listens on the port since `bind`.
    """
    generations = Generations(served.engine)
    config = uvicorn.Config(
        create_app(served, generations),
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
    )
    try:
        host, port = bound.getsockname()[:2]
        try:
            bound.listen()
        except OSError as error:
            raise _cannot_listen(host, port, error) from error
        _Server(config, generations, grace_seconds, on_ready).run(sockets=[bound])
    finally:
        bound.close()
        served.engine.close()


class _Server(uvicorn.Server):
    """Ends requests with an answer instead of a cut, and the process with status 0."""

    def __init__(
        self,
        config: uvicorn.Config,
        generations: Generations,
        grace_seconds: float,
        on_ready: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._generations = generations
        self._grace_seconds = grace_seconds
        self._on_ready = on_ready
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
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
