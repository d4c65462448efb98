"""Streamed responses that end as soon as the client hangs up."""

import asyncio
import json
from collections.abc import AsyncGenerator

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from omni_runtime.server import errors


class Stream(Response):
    """A body of pieces. An error before the first piece is an ordinary error response."""

    def __init__(self, pieces: AsyncGenerator[bytes], media_type: str) -> None:
        self.status_code = 200
        self.background = None
        self.media_type = media_type
        self._pieces = pieces
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the pieces; a client that hangs up cancels the iterator at once."""
        work = asyncio.ensure_future(self._send(scope, receive, send))
        gone = asyncio.ensure_future(_disconnect(receive))
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not work.done():
            work.cancel()
            await asyncio.wait({work})
        elif not work.cancelled() and (error := work.exception()) is not None:
            raise error

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        try:
            async for piece in self._pieces:
                if not started:
                    started = True
                    await send(self._start())
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except Exception as error:
            if not started:
                await errors.response(error)(scope, receive, send)
                return
            failed = self.failed(error)
            await send({"type": "http.response.body", "body": failed, "more_body": True})
        finally:
            await self._pieces.aclose()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def failed(self, error: Exception) -> bytes:
        """What ends the body after an error; bytes of audio have no place for one."""
        errors.described(error)  # logged
        return b""

    def _start(self) -> dict[str, object]:
        return {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }


class EventStream(Stream):
    """Server-sent events."""

    def __init__(self, records: AsyncGenerator[str]) -> None:
        super().__init__(_events(records), "text/event-stream")

    def failed(self, error: Exception) -> bytes:
        """An error as the last event."""
        return f"data: {json.dumps({'error': errors.described(error)[1]})}\n\n".encode()


async def _events(records: AsyncGenerator[str]) -> AsyncGenerator[bytes]:
    try:
        async for record in records:
            yield f"data: {record}\n\n".encode()
    finally:
        await records.aclose()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
