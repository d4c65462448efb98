"""Conversations behind requests that send their whole history.

A client of the HTTP API sends all earlier turns with each request. The conversations of recent
requests are kept, so a request that continues one of them prefills only what is new. A request that
goes back to an earlier turn, to regenerate a reply, takes the later turns back.
"""

import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from omni_runtime.errors import OmniError
from omni_runtime.inputs.messages import ContentPart, Message, Text
from omni_runtime.memory import AdmissionError
from omni_runtime.server.errors import ApiError
from omni_runtime.server.replies import call, opened
from omni_runtime.server.settings import Settings
from omni_runtime.serving.commands import Close, Open, Undo
from omni_runtime.serving.engine import Engine, EngineConversation


@dataclass
class Kept:
    """A conversation, and what identifies its turns: digests of question and reply."""

    conversation: EngineConversation
    system: str | None
    turns: list[tuple[bytes, str]] = field(default_factory=list[tuple[bytes, str]])
    history: int = 0
    """How many of them came as history: the engine cannot take those back one by one."""

    def begins_with(self, turns: list[tuple[bytes, str]]) -> bool:
        """Whether these are its first turns, and the engine can take back the others."""
        return len(turns) >= self.history and self.turns[: len(turns)] == turns


class Conversations:
    """The most recently used conversations; each is lent to one request at a time."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._idle: list[Kept] = []  # the most recently used one comes last

    @asynccontextmanager
    async def lend(
        self, messages: Sequence[Message]
    ) -> AsyncGenerator[tuple[EngineConversation, Kept, list[ContentPart]]]:
        """A conversation that holds all but the last message, which is given as parts.

        The borrower appends its turn to `Kept.turns` when the reply is complete; without that the
        conversation is closed.
        """
        system, turns, history, last = _split(messages)
        kept = await self._matching(system, turns) or await self._open(system, turns, history)
        before = len(kept.turns)
        try:
            yield kept.conversation, kept, last
        finally:
            if len(kept.turns) > before:
                self._idle.append(kept)
                while len(self._idle) > self._settings.cached:
                    await self._close(self._idle.pop(0))
            else:
                await self._close(kept)

    async def close(self) -> None:
        """Close all conversations that are kept."""
        while self._idle:
            await self._close(self._idle.pop())

    async def _matching(self, system: str | None, turns: list[tuple[bytes, str]]) -> Kept | None:
        """Take the kept conversation that begins with exactly these turns, and cut it to them."""
        if not turns:
            return None  # the engine shares the system prompt by itself
        found = [kept for kept in self._idle if kept.system == system and kept.begins_with(turns)]
        if not found:
            return None
        kept = min(found, key=lambda one: len(one.turns))
        self._idle.remove(kept)
        try:
            while len(kept.turns) > len(turns):
                await call(self._engine, Undo(kept.conversation.id))
                kept.turns.pop()
        except BaseException:  # also when the client hangs up
            await self._close(kept)
            raise
        return kept

    async def _open(
        self, system: str | None, turns: list[tuple[bytes, str]], history: list[Message]
    ) -> Kept:
        """Open a conversation, and close kept ones where memory is short."""
        command = Open(system, self._settings.context, history)
        while True:
            try:
                return Kept(await opened(self._engine, command), system, turns, len(turns))
            except AdmissionError:
                if not self._idle:
                    raise
                await self._close(self._idle.pop(0))

    async def _close(self, kept: Kept) -> None:
        with suppress(OmniError):  # the engine was closed
            await call(self._engine, Close(kept.conversation.id))


def digest(parts: Sequence[ContentPart]) -> bytes:
    """A digest of a user message: equal messages have equal ones."""
    found = hashlib.sha256()
    for part in parts:
        source: Any = part.text if isinstance(part, Text) else part.source
        data = _bytes(source)
        found.update(f"{type(part).__name__} {len(data)} ".encode() + data)
    return found.digest()


def _bytes(source: object) -> bytes:
    match source:
        case bytes():
            return source
        case str():
            return source.encode("utf-8", "surrogatepass")
        case Path():
            status = source.stat()
            return f"{source} {status.st_size} {status.st_mtime_ns}".encode()
        case (np.ndarray() as samples, int() as rate):
            return f"{rate} ".encode() + samples.tobytes()
        case _:
            raise TypeError(type(source))


def _split(
    messages: Sequence[Message],
) -> tuple[str | None, list[tuple[bytes, str]], list[Message], list[ContentPart]]:
    """Split a request into system prompt, turns, the messages of the turns, and the last message.

    Messages of the same role that follow each other are joined.
    """
    system = [message for message in messages if message.role == "system"]
    joined: list[Message] = []
    for message in messages:
        if message.role == "system":
            continue
        if joined and joined[-1].role == message.role:
            joined[-1] = Message(message.role, [*joined[-1].parts, *message.parts])
        else:
            joined.append(message)
    if not joined or joined[-1].role != "user" or not joined[-1].parts:
        raise ApiError("the last message must be a user's, with content", param="messages")
    if joined[0].role != "user":
        raise ApiError("the first message after the system's must be a user's", param="messages")
    *history, last = joined
    turns = [
        (digest(user.parts), _text(reply))
        for user, reply in zip(history[::2], history[1::2], strict=True)
    ]
    prompt = "\n\n".join(_text(message) for message in system) if system else None
    return prompt, turns, history, [*last.parts]


def _text(message: Message) -> str:
    if not all(isinstance(part, Text) for part in message.parts):
        raise ApiError(f"a message of role {message.role} holds text only", param="messages")
    return "".join(part.text for part in message.parts if isinstance(part, Text))
