"""A process that serves until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from lragent.server.state import ServerState

_LAST_S = 5
"""Seconds that answers get to go out after what still ran was cancelled."""


class Server(uvicorn.Server):
    """uvicorn's, which ends well after a signal, and ends our streams before it waits for them."""

    def __init__(self, config: uvicorn.Config, state: ServerState, ready: Callable[[str], object]):
        super().__init__(config)
        self._state = state
        self._ready = ready

    async def startup(self, sockets=None) -> None:
        """Begin to listen, and say where."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    async def shutdown(self, sockets=None) -> None:
        """Let requests finish, and cancel what still runs when their time is over."""
        self._state.stopping.set()
        loop = asyncio.get_running_loop()
        engine = self._state.engine
        late = loop.call_later(
            self._state.options.grace_s, loop.run_in_executor, None, engine.cancel_all
        )
        await super().shutdown(sockets)
        late.cancel()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """A signal stops the server, a second one at once; both are a good end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sig: signal.signal(sig, self._stop) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)

    def _stop(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address, not listening yet. Port 0 takes any that is free.

    Raises:
        OSError: the address cannot be had.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as error:
        raise OSError(
            f"cannot listen on {host}, port {port}: {error.strerror}; choose another host or port"
        ) from error
    return made


def serve(app: FastAPI, at: socket.socket, ready: Callable[[str], object]) -> None:
    """Serve until SIGINT or SIGTERM, which the main thread gets.

    `ready` gets the address when the server listens.
    """
    state: ServerState = app.state.lragent
    config = uvicorn.Config(
        app,
        log_level="warning",
        lifespan="off",
        timeout_graceful_shutdown=int(state.options.grace_s) + _LAST_S,
    )
    Server(config, state, ready).run([at])
