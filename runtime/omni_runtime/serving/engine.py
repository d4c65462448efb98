"""An engine: the thread that owns a model. Commands go in, events of each response come out.

Conversations take turns step by step: a piece of a prefill, a token with its code, a chunk of
speech. Each gives what it would give alone. Commands are carried out between two steps, and an
error of a command is raised where it was called. Only a cancellation takes effect at once, in the
middle of a graph.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, Self

from omni_runtime.conversation import Conversation
from omni_runtime.engine.session import SessionOptions
from omni_runtime.errors import OmniError, UsageError
from omni_runtime.events import Event, TurnDone
from omni_runtime.inputs.messages import ContentPart, Message
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions
from omni_runtime.response import Response
from omni_runtime.serving.commands import (
    Append,
    Cancel,
    Close,
    Command,
    Compose,
    ConversationCommand,
    EngineEvent,
    Failed,
    Fork,
    MakeRoom,
    Open,
    ReadAhead,
    Respond,
    Retract,
    Truncate,
    Undo,
)

Sink = Callable[[EngineEvent], object]
"""Takes the events of a reply. If it raises, the reply is cancelled, and gets no more events."""

_log = logging.getLogger("omni_runtime")


@dataclass
class _Entry:
    """A conversation on the engine's thread, and the message that is being made for it."""

    number: int
    conversation: Conversation
    parts: list[ContentPart] = field(default_factory=list[ContentPart])
    response: Response | None = None
    response_number: int = 0
    turns_before: int = 0
    """Turns before the last response."""


class Engine:
    """Owns a model. Usable from any thread, and as a context manager."""

    def __init__(self, model: Model | str | Path, options: SessionOptions | None = None) -> None:
        """`model` is a loaded model or the folder of a bundle, loaded with `options`."""
        self.model = model if isinstance(model, Model) else Model(model, options)
        self._commands: SimpleQueue[tuple[Command, Future[Any]] | None] = SimpleQueue()
        self._entries: dict[int, _Entry] = {}
        self._active: deque[_Entry] = deque()
        self._sinks: dict[int, Sink] = {}
        self._numbers = count(1)
        self._closing = Lock()
        self._closed = False
        self._thread = Thread(target=self._run, name="omni-engine", daemon=True)
        self._thread.start()

    def open(
        self,
        *,
        system: str | None = None,
        context: int | None = None,
        history: Sequence[Message] = (),
    ) -> "EngineConversation":
        """Start a conversation; the arguments are those of `Conversation`."""
        return EngineConversation(self, self.call(Open(system, context, history)))

    def submit(self, command: Command) -> Future[Any]:
        """Queue a command for the owner thread. The future gives its result or its error."""
        future: Future[Any] = Future()
        with self._closing:
            if self._closed:
                raise _closed()
            self._commands.put((command, future))
        return future

    def call(self, command: Command) -> Any:
        """Carry out a command on the owner thread and return its result, or raise its error."""
        return self.submit(command).result()

    def respond(self, conversation: int, options: ReplyOptions | None, sink: Sink) -> int:
        """Start a reply whose events go to `sink`, which runs on the owner thread. Its number."""
        return self.submit_response(conversation, options, sink).result()

    def submit_response(
        self, conversation: int, options: ReplyOptions | None, sink: Sink
    ) -> Future[int]:
        """`respond` without waiting. The reply's events can reach `sink` before the number."""
        number = next(self._numbers)
        self._sinks[number] = sink
        try:
            return self.submit(Respond(conversation, number, options))
        except BaseException:
            self._sinks.pop(number, None)
            raise

    @property
    def replying(self) -> bool:
        """Whether a reply of any conversation is in progress."""
        return any(entry.response is not None for entry in list(self._entries.values()))

    def interrupt(self, conversation: int) -> None:
        """End the graph that runs for a conversation's reply, at once and from any thread."""
        entry = self._entries.get(conversation)
        if entry is not None and entry.response is not None:
            entry.response.interrupt()

    def close(self) -> None:
        """Cancel all replies and end the thread."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._commands.put(None)
        for number in list(self._entries):
            self.interrupt(number)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # On the owner thread

    def _run(self) -> None:
        try:
            while self._take_commands():
                if self._active:
                    entry = self._active.popleft()
                    if self._step(entry):
                        self._active.append(entry)
        finally:
            self._end()

    def _take_commands(self) -> bool:
        """Carry out all commands that wait; with nothing to do wait for one. False at the end."""
        while not self._active or not self._commands.empty():
            item = self._commands.get()
            if item is None:
                return False
            command, future = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._handle(command))
            except BaseException as error:
                future.set_exception(error)
        return True

    def _handle(self, command: Command) -> Any:
        if isinstance(command, Open):
            talk = Conversation(
                self.model,
                system=command.system,
                context=command.context,
                history=command.history,
            )
            return self._add(talk)
        entry = self._entries.get(command.conversation)
        if entry is None:
            raise UsageError("the conversation is closed", fix="open another one", code="closed")
        return self._handle_for(entry, command)

    def _handle_for(self, entry: _Entry, command: ConversationCommand) -> Any:
        match command:
            case Append(parts=parts):
                entry.parts += parts
            case Compose(parts=parts):
                entry.parts = [*parts]
            case ReadAhead(more=more, speech=speech):
                entry.conversation.read_ahead(entry.parts, more=more, speech=speech)
            case Respond():
                return self._respond(entry, command)
            case Cancel():
                self._cancel(entry)
            case Truncate(heard_seconds=seconds):
                self._cancel(entry)
                return entry.conversation.truncate(seconds)
            case Retract():
                self._cancel(entry)
                if entry.conversation.turn_count > entry.turns_before:
                    entry.conversation.undo(keep_prompt=True)
            case Undo():
                entry.conversation.undo()
            case MakeRoom(tokens=tokens):
                return entry.conversation.make_room(tokens)
            case Fork():
                return self._add(entry.conversation.fork())
            case Close():
                self._cancel(entry)
                entry.conversation.close()
                del self._entries[entry.number]
        return None

    def _add(self, conversation: Conversation) -> int:
        number = next(self._numbers)
        self._entries[number] = _Entry(number, conversation)
        return number

    def _respond(self, entry: _Entry, command: Respond) -> int:
        if entry.response is not None:
            raise UsageError(
                "a reply of this conversation is in progress",
                fix="read it to its end, or cancel it",
                code="reply_in_progress",
            )
        parts, entry.parts = entry.parts, []
        entry.turns_before = entry.conversation.turn_count
        entry.response = entry.conversation.send(parts, command.options)
        entry.response_number = command.response
        self._active.append(entry)
        return command.response

    def _step(self, entry: _Entry) -> bool:
        """Run one step of a reply and pass its event on. False when the reply is over."""
        response = entry.response
        if response is None:  # it was cancelled meanwhile
            return False
        try:
            event = response.step()
        except StopIteration:
            return False
        except BaseException as error:
            self._send(entry, Failed(error))
            return False
        if event is not None:
            self._send(entry, event)
        return entry.response is not None

    def _send(self, entry: _Entry, event: Event | Failed) -> None:
        number = entry.response_number
        sink = self._sinks[number]
        if isinstance(event, TurnDone | Failed):
            entry.response = None
            del self._sinks[number]
        try:
            sink(EngineEvent(entry.number, number, event))
        except Exception:
            _log.exception("the receiver of a reply failed; the reply is cancelled")
            if number in self._sinks:
                self._sinks[number] = lambda _: None
                self._cancel(entry)

    def _cancel(self, entry: _Entry) -> None:
        if entry.response is not None:
            entry.response.cancel()
            self._step(entry)  # which gives its TurnDone
            self._active = deque(other for other in self._active if other is not entry)

    def _end(self) -> None:
        """Leave nobody waiting."""
        with self._closing:
            self._closed = True
        for entry in self._entries.values():
            self._cancel(entry)
            entry.conversation.close()
        while not self._commands.empty():
            item = self._commands.get()
            if item is not None:
                item[1].set_exception(_closed())


class EngineConversation:
    """A conversation on an engine. Every method may be called from any thread."""

    def __init__(self, engine: Engine, number: int) -> None:
        self.engine = engine
        self.id = number

    def append(self, *parts: ContentPart) -> None:
        """Add parts to the user message that is being made."""
        self.engine.call(Append(self.id, parts))

    def read_ahead(self, *, speech: bool = True) -> None:
        """Prefill what is final of the message that is being made."""
        self.engine.call(ReadAhead(self.id, speech))

    def respond(self, options: ReplyOptions | None = None) -> "EngineResponse":
        """Send the message. Iterate the result for the events of the reply."""
        return EngineResponse(self, options)

    def send(self, *parts: ContentPart, options: ReplyOptions | None = None) -> "EngineResponse":
        """`append` and `respond`."""
        self.append(*parts)
        return self.respond(options)

    def cancel(self) -> None:
        """Stop the reply in progress, if there is one; the conversation is at rest afterwards."""
        self.engine.interrupt(self.id)
        self.engine.call(Cancel(self.id))

    def truncate(self, heard_seconds: float) -> str:
        """Stop the reply and cut it to what was heard; see `Conversation.truncate`."""
        self.engine.interrupt(self.id)
        return self.engine.call(Truncate(self.id, heard_seconds))

    def fork(self) -> "EngineConversation":
        """A copy that goes on from here. Raises AdmissionError when there is no memory for it."""
        return EngineConversation(self.engine, self.engine.call(Fork(self.id)))

    def close(self) -> None:
        """End the conversation and release its memory."""
        self.engine.interrupt(self.id)
        self.engine.call(Close(self.id))


class EngineResponse:
    """The events of one reply, in a queue: iterate it in any one thread."""

    def __init__(self, conversation: EngineConversation, options: ReplyOptions | None) -> None:
        self.conversation = conversation
        self._events: SimpleQueue[EngineEvent] = SimpleQueue()
        self._over = False
        engine = conversation.engine
        self.id = engine.respond(conversation.id, options, self._events.put)

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        """The next event, waiting for it. Raises the error that ended the reply."""
        if self._over:
            raise StopIteration
        event = self._events.get().event
        self._over = isinstance(event, TurnDone | Failed)
        if isinstance(event, Failed):
            raise event.error
        return event

    def cancel(self) -> None:
        """Stop the reply. Iterating on gives what was made until then, and TurnDone."""
        self.conversation.cancel()


def _closed() -> OmniError:
    return OmniError("the engine was closed", fix="open another one", code="closed")
