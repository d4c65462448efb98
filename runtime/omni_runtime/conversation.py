"""A conversation: messages, and the KV caches that hold exactly what was said.

Each turn appends its prompt to the caches, streams a reply, and leaves them holding the reply's
tokens, whether it ended or was stopped. Media are encoded once. A turn that fails leaves the
conversation as it was before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import numpy.typing as npt

from omni_runtime.engine.kv_cache import KVCache
from omni_runtime.errors import UsageError
from omni_runtime.events import Event, TurnDone
from omni_runtime.inputs.prompt import Message, Part, Prompt, Text
from omni_runtime.machine import peak_memory
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, ResolvedSpeech
from omni_runtime.reply import Reply

FloatArray = npt.NDArray[np.float32]


ROWS_TO_SPEAK = 3
"""Rows that the Talker needs to say anything: voice, first reply row, one code."""


@dataclass(frozen=True)
class _Mark:
    """Where the conversation stood: enough to return to it."""

    messages: int
    length: int
    position: int


class _Unread:
    """Rows of the conversation that the Talker has not read yet, with their positions."""

    def __init__(self, width: int) -> None:
        self.rows = np.zeros((0, width), np.float32)
        self.positions = np.zeros((3, 0), np.int64)

    def add(self, rows: FloatArray, positions: npt.NDArray[np.int64]) -> None:
        self.rows = np.concatenate([self.rows, rows])
        self.positions = np.concatenate([self.positions, positions], axis=1)

    def keep(self, count: int) -> None:
        """Forget all but the first `count`."""
        self.rows, self.positions = self.rows[:count], self.positions[:, :count]


class Conversation:
    """Several turns with one model."""

    def __init__(
        self, model: Model, *, system: str | None = None, context: int | None = None
    ) -> None:
        """`system` replaces the model's own system prompt; `context` lowers its context length."""
        self.model = model
        self.messages: list[Message] = [
            Message("system", [Text(system or model.config.system_prompt)])
        ]
        self._cache = model.thinker.new_cache(context)
        self._context = context
        self._talker_cache: KVCache | None = None
        self._unread = _Unread(model.config.thinker.decoder.hidden_size)
        self._position = 0
        self._marks: list[_Mark] = []
        self._last_tokens: list[int] = []

    @property
    def context_used(self) -> int:
        """Tokens in the Thinker's cache."""
        return self._cache.length

    @property
    def context_limit(self) -> int:
        """Tokens that fit."""
        return self._cache.limit

    @property
    def last_tokens(self) -> list[int]:
        """Token ids of the last reply."""
        return self._last_tokens

    @property
    def cache_bytes(self) -> int:
        """Bytes of both caches."""
        return self._cache.nbytes + (self._talker_cache.nbytes if self._talker_cache else 0)

    def send(
        self, parts: Sequence[Part] | str, options: ReplyOptions | None = None
    ) -> Iterator[Event]:
        """Add a user turn and stream the reply; the last event is TurnDone.

        Stopping the iteration (closing the generator) stops all work; what was said until then
        stays in the conversation. UsageError, MediaError or ContextFullError come before the
        first event and leave the conversation as it was.
        """
        options = options or ReplyOptions()
        speech = options.speech.resolved(self.model.speech) if options.speech else None
        content = [Text(parts)] if isinstance(parts, str) else list(parts)
        if not content:
            raise UsageError("the message is empty", fix="give a prompt, a file, or both")
        return self._turn(Message("user", content), options, speech)

    def undo(self) -> None:
        """Take back the last turn, question and reply. Raises UsageError if there is none."""
        if not self._marks:
            raise UsageError("there is no turn to take back", fix="say something first")
        self._return_to(self._marks.pop())

    def _turn(
        self, message: Message, options: ReplyOptions, speech: ResolvedSpeech | None
    ) -> Iterator[Event]:
        started = perf_counter()
        mark = self._mark()
        try:
            prompt = self._build(message)
            self.messages.append(message)
            logits = self._prefill(prompt, speech is not None)
        except BaseException:
            self._return_to(mark)
            raise
        self._marks.append(mark)
        prefill = perf_counter() - started
        before = self._talker_cache.length if self._talker_cache else 0
        reply = Reply(
            self.model, options, speech, self._cache, self._talker_cache, self._position, started
        )
        try:
            yield from reply.stream(logits)
        finally:
            self._keep(reply, before)
        yield TurnDone(
            text=reply.state.text,
            finish_reason=reply.state.finish_reason,
            speech_complete=reply.speech_complete,
            timings=reply.timings(prefill, len(prompt.ids)),
            context_used=self._cache.length,
            context_limit=self._cache.limit,
            cache_bytes=self.cache_bytes,
            peak_memory=peak_memory(),
        )

    def _build(self, message: Message) -> Prompt:
        return self.model.prompts.build(
            [*self.messages, message],
            start_position=self._position,
            since_last_reply=bool(self._marks),
        )

    def _prefill(self, prompt: Prompt, speech: bool) -> FloatArray:
        """Append the prompt to the Thinker's cache, and to the Talker's if it is to speak."""
        output = self.model.thinker.prefill(self._cache, prompt)
        self._position = prompt.next_position
        if self.model.config.speech is not None:
            self._unread.add(output.talker_rows, prompt.positions)
        if speech:
            self._catch_up()
        return output.logits

    def _catch_up(self) -> KVCache:
        """Let the Talker read what it has not read yet."""
        if self._talker_cache is None:
            self._talker_cache = self.model.talker.new_cache(self._context)
        self._talker_cache.check_room(len(self._unread.rows) + ROWS_TO_SPEAK)
        self.model.talker.append(self._talker_cache, self._unread.rows, self._unread.positions)
        self._unread.keep(0)
        return self._talker_cache

    def _keep(self, reply: Reply, talker_length: int) -> None:
        """Make the reply, as far as it came, a part of the conversation."""
        state = reply.state
        if self._talker_cache is not None:
            self._talker_cache.truncate(talker_length)
        if state.rows and self.model.config.speech is not None:
            positions = np.arange(self._position, reply.position, dtype=np.int64)
            self._unread.add(np.concatenate(state.rows), np.tile(positions, (3, 1)))
        self._position = reply.position
        self._last_tokens = state.tokens
        self.messages.append(Message("assistant", [Text(state.text)]))

    def _mark(self) -> _Mark:
        return _Mark(len(self.messages), self._cache.length, self._position)

    def _return_to(self, mark: _Mark) -> None:
        del self.messages[mark.messages :]
        self._position = mark.position
        self._cache.truncate(mark.length)
        read = 0
        if self._talker_cache is not None:
            read = min(self._talker_cache.length, mark.length)
            self._talker_cache.truncate(read)
        # Talker's cache and unread rows together are as long as the Thinker's cache, always.
        self._unread.keep(mark.length - read)
