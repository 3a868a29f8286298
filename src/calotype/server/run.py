"""Running the application: uvicorn, with a clock on slow clients and an orderly end."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from calotype.errors import CalotypeError, OutputError
from calotype.server.app import create
from calotype.server.desk import Desk
from calotype.server.settings import Settings

SHUTDOWN_SECONDS = 20
"""For answers that are on their way, when the server is asked to stop."""


class Impatient(H11Protocol):
    """A connection on which a request has not come within `patience` seconds is closed (slow loris).

    The clock runs from the connection's start, and again from the first bytes of every further request, to
    the end of its head; its body has the fences' clock, and uvicorn's own runs between requests.
    """

    patience = 30.0
    _clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wind()

    def data_received(self, data: bytes) -> None:
        if self._clock is None and self._between():
            self._wind()
        super().data_received(data)
        if self._clock is not None and not self._between():
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _between(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _wind(self) -> None:
        self._clock = self.loop.call_later(self.patience, self._late)

    def _stop(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _late(self) -> None:
        self._clock = None
        if self._between() and self.transport is not None and not self.transport.is_closing():
            self.transport.close()


class _Server(uvicorn.Server):
    """Tells those who wait that the end is near: a stream without end would keep uvicorn from stopping."""

    def __init__(self, config: uvicorn.Config, desk: Desk) -> None:
        super().__init__(config)
        self._desk = desk

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        self._desk.stopping.set()
        self._desk.live.changed()


def serve(settings: Settings, host: str, port: int) -> None:
    """Until SIGTERM or Ctrl-C.  Raises OutputError where the address is taken, and as `create`."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    listener = _listener(host, port)
    try:
        app = create(settings)
    except CalotypeError:
        listener.close()
        raise
    desk: Desk = app.state.desk
    limits = settings.limits
    Impatient.patience = limits.read_seconds
    config = uvicorn.Config(
        app,
        http=Impatient,
        access_log=False,  # addresses of pictures are nobody's business
        log_config=None,
        log_level="warning",
        proxy_headers=False,  # a client could call itself anyone
        server_header=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        h11_max_incomplete_event_size=2**16,
    )
    server = _Server(config, desk)
    shown = "localhost" if host in ("127.0.0.1", "::1") else f"[{host}]" if ":" in host else host
    print(f"Calotype serves on http://{shown}:{listener.getsockname()[1]}", flush=True)
    server.run([listener])


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OutputError(
            f"{host}:{port} cannot be listened on ({error.strerror}); give another --host or --port."
        ) from None
