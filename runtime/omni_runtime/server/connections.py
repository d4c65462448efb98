"""How connections are served: uvicorn's settings, and time limits for requests that do not arrive.

uvicorn waits without end for the first request of a connection and for the rest of a body. Here
both have a limit, so sockets that stay half open are freed. When there are many, the oldest is
closed for a new one: they never keep others out. After the handshake of a WebSocket pings find a
client that is gone.
"""

from asyncio import TimerHandle, Transport
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

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
        http=_limited(settings.head_seconds, settings.body_seconds),
        ws="websockets-sansio",
        ws_max_size=settings.max_frame,
        ws_ping_interval=settings.ping_seconds,
        ws_ping_timeout=settings.ping_seconds,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        server_header=False,
        **options,
    )


class _LimitedProtocol(H11Protocol):
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


def _limited(head: float, body: float) -> type[H11Protocol]:
    limits = {h11.IDLE: head, h11.SEND_BODY: body}
    return type("LimitedProtocol", (_LimitedProtocol,), {"limits": limits, "half_open": {}})
