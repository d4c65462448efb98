"""Replies of the engine for asyncio: an iterator of events, and a limit on how many run at once."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.requests import Request

from omni_runtime.events import Event, TurnDone
from omni_runtime.inputs.messages import ContentPart
from omni_runtime.options import ReplyOptions
from omni_runtime.server.errors import busy, hung_up
from omni_runtime.serving.commands import Cancel, Close, Command, Compose, EngineEvent, Failed, Open
from omni_runtime.serving.engine import Engine, EngineConversation

Result = TypeVar("Result")


async def call(engine: Engine, command: Command) -> Any:
    """Carry out a command on the engine's thread, also when the caller is cancelled meanwhile."""
    return await asyncio.shield(asyncio.wrap_future(engine.submit(command)))


async def opened(engine: Engine, command: Open) -> EngineConversation:
    """Open a conversation; one that comes too late for a cancelled caller is closed."""
    future = engine.submit(command)
    try:
        number = await asyncio.shield(asyncio.wrap_future(future))
    except asyncio.CancelledError:
        future.add_done_callback(lambda done: _close(engine, done))
        raise
    return EngineConversation(engine, number)


@asynccontextmanager
async def temporary(engine: Engine, context: int | None) -> AsyncGenerator[EngineConversation]:
    """A conversation for one reply, closed afterwards."""
    conversation = await opened(engine, Open(context=context))
    try:
        yield conversation
    finally:
        await call(engine, Close(conversation.id))


def _close(engine: Engine, done: Future[int]) -> None:
    if done.exception() is None:
        engine.submit(Close(done.result()))


async def events(
    conversation: EngineConversation, parts: Sequence[ContentPart], options: ReplyOptions
) -> AsyncGenerator[Event]:
    """Send a message and iterate its reply. Closing the iterator cancels the reply at once."""
    engine, loop = conversation.engine, asyncio.get_running_loop()
    queue: asyncio.Queue[EngineEvent] = asyncio.Queue()

    def sink(event: EngineEvent) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, event)

    await call(engine, Compose(conversation.id, parts))
    over = False
    try:
        number = engine.submit_response(conversation.id, options, sink)
        await asyncio.shield(asyncio.wrap_future(number))
        while not over:
            event = (await queue.get()).event
            over = isinstance(event, TurnDone | Failed)
            if isinstance(event, Failed):
                raise event.error
            yield event
    finally:
        if not over:
            engine.interrupt(conversation.id)
            await call(engine, Cancel(conversation.id))


class Admission:
    """At most `parallel` requests run, at most `queue` wait; more are refused."""

    def __init__(self, parallel: int, queue: int) -> None:
        self._running = asyncio.Semaphore(parallel)
        self._queue = queue
        self.waiting = 0
        self.active = 0

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None]:
        """Wait for a free slot. Raises ApiError, status 503, when too many wait."""
        if self.waiting >= self._queue:
            raise busy("too many requests are waiting")
        self.waiting += 1
        try:
            await self._running.acquire()
        finally:
            self.waiting -= 1
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1
            self._running.release()


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Run `work`, and cancel it as soon as the client hangs up. The body must have been read."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise hung_up()
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
