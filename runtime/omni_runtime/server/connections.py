"""How connections are served: uvicorn's settings, and time limits for clients that do nothing.

uvicorn waits without end for the first request of a connection, for the rest of a body, and for a
client to read. Here all have a limit, so sockets that stay half open are freed. When many requests
have not arrived, the oldest is closed for a new one: they never keep others out. After the
handshake of a WebSocket pings find a client that is gone.
"""

from asyncio import Protocol, TimerHandle, Transport, get_running_loop
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from omni_runtime.server.settings import Settings

MAX_CONNECTIONS = 512
MAX_HALF_OPEN = 256
"""Connections, of those, whose request has not arrived yet."""
SHUTDOWN_SECONDS = 10
"""How long replies may go on after SIGTERM."""


def uvicorn_config(app: Starlette, settings: Settings, **options: Any) -> uvicorn.Config:
    """Return the configuration of a server; `options` are more of uvicorn's."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        http=_http(settings),
        ws=_websocket(settings),
        ws_max_size=settings.max_frame,
        ws_ping_interval=settings.ping_seconds,
        ws_ping_timeout=settings.ping_seconds,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        server_header=False,
        **options,
    )


class _ReadLimit(Protocol):
    """Closes a connection whose client takes nothing of what waits to be sent to it."""

    write_seconds: float
    transport: Transport
    _stalled: TimerHandle | None = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look_again(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_looking()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_looking()

    def _look_again(self, size: int) -> None:
        loop = get_running_loop()
        self._stalled = loop.call_later(self.write_seconds, self._look, size)

    def _look(self, before: int) -> None:
        size = self.transport.get_write_buffer_size()
        if size < before:  # the client is slow
            self._look_again(size)
        else:
            self.transport.abort()

    def _stop_looking(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()


class _WebSocketProtocol(_ReadLimit, WebSocketsSansIOProtocol):  # type: ignore[misc]
    pass


class _LimitedProtocol(_ReadLimit, H11Protocol):  # type: ignore[misc]
    """Closes a connection whose request takes too long to arrive."""

    limits: dict[object, float]
    """Seconds by the state of the client: before the end of the head, and of the body."""

    half_open: dict["_LimitedProtocol", None]
    """Those of this server whose request has not arrived yet, the oldest first."""

    _awaited: object = None
    _timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._set_timer(None)

    def _watch(self) -> None:
        upgraded = self.transport.get_protocol() is not self
        awaited = None if upgraded else self.conn.their_state
        if awaited is not self._awaited:
            self._awaited = awaited
            self._set_timer(self.limits.get(awaited))

    def _set_timer(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self.transport.abort) if seconds else None
        self.half_open.pop(self, None)
        if seconds:
            self.half_open[self] = None
            if len(self.half_open) > MAX_HALF_OPEN:
                oldest = next(iter(self.half_open))
                del self.half_open[oldest]
                oldest.transport.abort()


def _http(settings: Settings) -> type[H11Protocol]:
    limits = {h11.IDLE: settings.head_seconds, h11.SEND_BODY: settings.body_seconds}
    fields = {"write_seconds": settings.write_seconds, "limits": limits, "half_open": {}}
    return type("LimitedProtocol", (_LimitedProtocol,), fields)


def _websocket(settings: Settings) -> type[WebSocketsSansIOProtocol]:
    fields = {"write_seconds": settings.write_seconds}
    return type("WebSocketProtocol", (_WebSocketProtocol,), fields)
