"""A conversation: messages, and the KV caches that hold exactly what was said.

Each turn appends its prompt to the caches, streams a reply, and leaves them holding the reply's
tokens, whether it ended or was stopped. Media are encoded once. A turn that fails leaves the
conversation as it was before; so does one that is interrupted before its reply begins.

A prompt may be read before it is complete (`read_ahead`): the caches then hold its beginning, and
the turn reads what is missing. Whatever else touches the caches forgets that beginning first.
"""

from collections.abc import Generator, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt

from omni_runtime import persistence
from omni_runtime.engine.kv_cache import KVCache
from omni_runtime.errors import UsageError
from omni_runtime.events import Event, TurnDone
from omni_runtime.inputs import prefix
from omni_runtime.inputs.prompt import ContentPart, Message, Prompt, Text
from omni_runtime.machine import peak_memory
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, ResolvedSpeechOptions
from omni_runtime.persistence import Mark, Saved, Turn
from omni_runtime.reply import Reply

FloatArray = npt.NDArray[np.float32]

ROWS_TO_SPEAK = 3
"""Rows that the Talker needs to say anything: voice, first reply row, one code."""


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
        """`system` replaces the model's own system prompt; `context` lowers its context length.

        Under a memory budget the context is as long as fits, unless `context` says how long.
        Raises UsageError when that does not fit.
        """
        self.model = model
        self.messages: list[Message] = [
            Message("system", [Text(system or model.config.system_prompt)])
        ]
        self._limit = model.budget.context(context)
        self._cache = model.thinker.new_cache(self._limit)
        self._context = context
        self._talker_cache: KVCache | None = None
        self._unread = _Unread(model.config.thinker.decoder.hidden_size)
        self._position = 0
        self._turns: list[Turn] = []
        self._last_tokens: list[int] = []
        self._ahead: Prompt | None = None
        """What the caches hold behind the last turn."""

    @property
    def context_used(self) -> int:
        """Tokens of the turns so far."""
        return self._mark().length

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
        self, parts: Sequence[ContentPart] | str, options: ReplyOptions | None = None
    ) -> Generator[Event]:
        """Add a user turn and stream the reply; the last event is TurnDone.

        Stopping the iteration (closing the generator) stops all work; what was said until then
        stays in the conversation. UsageError, MediaError or ContextFullError come before the
        first event and leave the conversation as it was.
        """
        options, speech = self._resolved(options)
        content = [Text(parts)] if isinstance(parts, str) else list(parts)
        if not content:
            raise UsageError("the message is empty", fix="give a prompt, a file, or both")
        return self._turn(Message("user", content), options, speech)

    def read_ahead(
        self, parts: Sequence[ContentPart] = (), *, more: bool = False, speech: bool = True
    ) -> None:
        """Read the beginning of a message that is still being made; `send` then takes less time.

        Without parts it is the system prompt. With `more` a recording at the end of `parts` is
        still going on, for example an AudioStream: its final blocks are read. What is sent in the
        end need not be what was announced: only what both share counts as read. `speech`: the
        reply will be spoken. Not while a reply is being streamed. Raises as `send` does, and then
        nothing is read ahead.
        """
        start = self._mark()
        try:
            prompt = self._build(Message("user", [*parts]), partial=more)
            count = prefix.stable_length(prompt) if more else len(prompt.ids)
            if count:
                self._read(prefix.split(prompt, count)[0], whole=False)
            if speech and self.model.config.speech is not None:
                self._catch_up()
        except BaseException:
            self._return_to(start)
            raise

    def regenerate(self, options: ReplyOptions | None = None) -> Generator[Event]:
        """Take back the last reply and stream another one to the same question.

        Nothing is encoded anew. Raises UsageError if there is no reply yet.
        """
        options, speech = self._resolved(options)
        if not self._turns:
            raise UsageError("there is no reply to make anew", fix="say something first")
        self._forget_ahead()
        return self._again(self._turns[-1], options, speech)

    def undo(self) -> None:
        """Take back the last turn, question and reply. Raises UsageError if there is none."""
        if not self._turns:
            raise UsageError("there is no turn to take back", fix="say something first")
        self._forget_ahead()
        self._return_to(self._turns.pop().start)

    def save(self, folder: str | Path) -> None:
        """Write the conversation into a folder, whole or not at all. Raises OmniError."""
        self._forget_ahead()
        persistence.write(
            Path(folder),
            Saved(
                messages=self.messages,
                turns=self._turns,
                position=self._position,
                context=self._context,
                last_tokens=self._last_tokens,
                thinker=self._cache,
                talker=self._talker_cache,
                unread_rows=self._unread.rows,
                unread_positions=self._unread.positions,
            ),
            self.model,
        )

    @classmethod
    def load(cls, folder: str | Path, model: Model) -> "Conversation":
        """Go on where `save` was called. Raises OmniError for another bundle's or a damaged save.

        Media among the messages are names only: the caches hold what they meant.
        """
        found = persistence.read(Path(folder), model)
        conversation = cls(model, context=found.context)
        conversation.messages = found.messages
        conversation._turns = found.turns
        conversation._position = found.position
        conversation._last_tokens = found.last_tokens
        conversation._cache = found.thinker
        conversation._talker_cache = found.talker
        conversation._unread.add(found.unread_rows, found.unread_positions)
        return conversation

    def _resolved(
        self, options: ReplyOptions | None
    ) -> tuple[ReplyOptions, ResolvedSpeechOptions | None]:
        options = options or ReplyOptions()
        return options, options.speech.resolved(self.model.speech) if options.speech else None

    def _turn(
        self, message: Message, options: ReplyOptions, speech: ResolvedSpeechOptions | None
    ) -> Generator[Event]:
        started = perf_counter()
        start = self._mark()
        try:
            prompt = self._build(message)
            self.messages.append(message)
            logits = self._prefill(prompt, speech is not None)
            turn = Turn(start, self._mark(), int(prompt.ids[-1]))
            reply = self._new_reply(options, speech, started)
        except BaseException:
            self._return_to(start)
            raise
        self._turns.append(turn)
        yield from self._stream(reply, logits, perf_counter() - started, len(prompt.ids))

    def _again(
        self, turn: Turn, options: ReplyOptions, speech: ResolvedSpeechOptions | None
    ) -> Generator[Event]:
        started = perf_counter()
        asked = turn.asked
        if speech is not None:
            self._talker().check_room(asked.length - self._talker().length + ROWS_TO_SPEAK)
        try:
            self._return_to(asked)
            # The caches hold the prompt; reading its last token once more gives its logits.
            self._cache.truncate(asked.length - 1)
            output = self.model.thinker.step(self._cache, turn.last_token, asked.position - 1)
            if speech is not None:
                self._catch_up()
            reply = self._new_reply(options, speech, started)
        except BaseException:
            self._turns.pop()
            self._return_to(turn.start)
            raise
        yield from self._stream(reply, output.logits, perf_counter() - started, 1)

    def _new_reply(
        self, options: ReplyOptions, speech: ResolvedSpeechOptions | None, started: float
    ) -> Reply:
        return Reply(
            self.model, options, speech, self._cache, self._talker_cache, self._position, started
        )

    def _stream(
        self, reply: Reply, logits: FloatArray, prefill: float, prompt_tokens: int
    ) -> Generator[Event]:
        """Stream the reply to the prompt at the end of the caches, and keep it."""
        try:
            yield from reply.stream(logits)
        finally:
            self._keep(reply)
        yield TurnDone(
            text=reply.state.text,
            finish_reason=reply.state.finish_reason,
            speech_complete=reply.speech_complete,
            timings=reply.timings(prefill, prompt_tokens),
            context_used=self._cache.length,
            context_limit=self._cache.limit,
            cache_bytes=self.cache_bytes,
            peak_memory=peak_memory(),
        )

    def _build(self, message: Message, *, partial: bool = False) -> Prompt:
        return self.model.prompts.build(
            [*self.messages, message],
            start_position=self._position,
            since_last_reply=bool(self._turns),
            partial=partial,
        )

    def _prefill(self, prompt: Prompt, speech: bool) -> FloatArray:
        """Append the prompt to the Thinker's cache, and to the Talker's if it is to speak."""
        logits = self._read(prompt, whole=True)
        self._ahead = None
        self._position = prompt.next_position
        if speech:
            self._catch_up()
        return logits

    def _read(self, prompt: Prompt, *, whole: bool) -> FloatArray:
        """Let the caches hold this prompt behind the last turn. Returns the last row's logits.

        What was read ahead of it is kept. Of a `whole` prompt at least the last token is read, for
        its logits; of a beginning nothing may be left to read, and its logits mean nothing.
        """
        start, known = self._mark().length, 0
        if self._ahead is not None:
            known = prefix.common_prefix(self._ahead, prompt)
            known = min(known, len(prompt.ids) - 1) if whole else known
            self._truncate(start + known)
        if known == len(prompt.ids):
            self._ahead = prompt  # what was read may have been longer
            return np.zeros(0, np.float32)
        rest = prefix.split(prompt, known)[1] if known else prompt
        self._ahead = prefix.split(prompt, known)[0] if known else None
        output = self.model.thinker.prefill(self._cache, rest)
        self._ahead = prompt
        if self.model.config.speech is not None:
            self._unread.add(output.talker_rows, rest.positions)
        return output.logits

    def _forget_ahead(self) -> None:
        self._truncate(self._mark().length)
        self._ahead = None

    def _talker(self) -> KVCache:
        if self._talker_cache is None:
            self._talker_cache = self.model.talker.new_cache(self._limit)
        return self._talker_cache

    def _catch_up(self) -> None:
        """Let the Talker read what it has not read yet."""
        cache = self._talker()
        cache.check_room(len(self._unread.rows) + ROWS_TO_SPEAK)
        before = cache.length
        try:
            self.model.talker.append(cache, self._unread.rows, self._unread.positions)
        except BaseException:
            cache.truncate(before)
            raise
        self._unread.keep(0)

    def _keep(self, reply: Reply) -> None:
        """Make the reply, as far as it came, a part of the conversation."""
        state, asked = reply.state, self._turns[-1].asked
        # An interruption may fall between a step and its entry in the state, which counts.
        self._cache.truncate(asked.length + len(state.tokens))
        if self._talker_cache is not None:
            self._talker_cache.truncate(min(self._talker_cache.length, asked.length))
        if state.tokens and self.model.config.speech is not None:
            positions = np.arange(self._position, reply.position, dtype=np.int64)
            rows = np.concatenate(state.rows[: len(state.tokens)])
            self._unread.add(rows, np.tile(positions, (3, 1)))
        self._position = reply.position
        self._last_tokens = state.tokens
        self.messages.append(Message("assistant", [Text(state.text)]))

    def _mark(self) -> Mark:
        ahead = len(self._ahead.ids) if self._ahead is not None else 0
        return Mark(len(self.messages), self._cache.length - ahead, self._position)

    def _return_to(self, mark: Mark) -> None:
        del self.messages[mark.messages :]
        self._position = mark.position
        self._ahead = None
        self._truncate(mark.length)

    def _truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self._cache.truncate(length)
        read = 0
        if self._talker_cache is not None:
            read = min(self._talker_cache.length, length)
            self._talker_cache.truncate(read)
        # Talker's cache and unread rows together are as long as the Thinker's cache, always.
        self._unread.keep(length - read)
