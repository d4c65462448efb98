"""A session's conversation on the engine: what is queued for it, and what is waited for.

Commands are queued in order, and the engine's thread carries them out. Only a cut is waited for:
its result says what was heard.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from omni_runtime.events import Event
from omni_runtime.inputs.audio_stream import AudioStream
from omni_runtime.inputs.messages import ContentPart
from omni_runtime.serving.commands import (
    Cancel,
    Command,
    Compose,
    Failed,
    MakeRoom,
    ReadAhead,
    Retract,
    Truncate,
)
from omni_runtime.serving.engine import EngineConversation
from omni_runtime.voice.reply_progress import ReplyProgress
from omni_runtime.voice.vad import SAMPLE_RATE


class EngineSide:
    """The conversation of one session."""

    def __init__(self, conversation: EngineConversation) -> None:
        self.conversation = conversation
        self._engine = conversation.engine
        self._number = conversation.id
        self._last: Future[Any] | None = None

    @property
    def replying(self) -> bool:
        """Whether the engine makes a reply for anybody."""
        return self._engine.replying

    @property
    def busy(self) -> bool:
        """Whether a command of this conversation waits."""
        return self._last is not None and not self._last.done()

    def audio_stream(self) -> AudioStream:
        """Return an empty stream for a turn's sound."""
        return self._engine.model.audio_stream(SAMPLE_RATE)

    def read_ahead(self, parts: Sequence[ContentPart], *, speech: bool, more: bool = True) -> None:
        """Prefill a message; with `more` only what is final of it."""
        self._submit(Compose(self._number, parts))
        self._submit(ReadAhead(self._number, more, speech))

    def discard(self) -> None:
        """Let go of the message that was read ahead."""
        self._submit(Compose(self._number))

    def respond(self, reply: ReplyProgress, sink: Callable[[Event | Failed], object]) -> None:
        """Have a reply made; `sink` gets its events, also the error that kept it from starting."""

        def check(done: Future[int]) -> None:
            error = done.exception()
            if error is not None:
                sink(Failed(error))

        self._submit(Compose(self._number, reply.parts))
        options = reply.options
        future = self._engine.submit_response(self._number, options, lambda made: sink(made.event))
        future.add_done_callback(check)

    def retract(self) -> None:
        """Take a reply and its turn back; the prompt stays prefilled."""
        self._engine.interrupt(self._number)
        self._submit(Retract(self._number))

    def cut(self, reply: ReplyProgress, played: float) -> str:
        """Stop a reply and keep what was heard of it; returns its text.

        If that is nothing, the turn is removed as well.
        """
        self._engine.interrupt(self._number)
        if not reply.begun:
            self._engine.call(Retract(self._number))
            return ""
        if not reply.speaks:
            self._engine.call(Cancel(self._number))
            return reply.text
        return self.truncate(played)

    def truncate(self, heard_seconds: float) -> str:
        """Cut the last reply; returns the text that is left. Raises UsageError without one."""
        return self._engine.call(Truncate(self._number, heard_seconds))

    def make_room(self, tokens: int, forgotten: Callable[[int], object]) -> None:
        """Forget the oldest turns; the engine's thread says how many. An error comes again."""

        def tell(done: Future[int]) -> None:
            if done.exception() is None and done.result():
                forgotten(done.result())

        self._engine.submit(MakeRoom(self._number, tokens)).add_done_callback(tell)

    def close(self) -> None:
        """Stop everything and close the conversation."""
        self.conversation.close()

    def _submit(self, command: Command) -> None:
        """Queue a command. An error of a prefill is dropped: the response meets it again."""
        self._last = self._engine.submit(command)
