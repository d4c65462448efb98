"""A context: the token ids of a conversation and the KV caches of Thinker and Talker behind them.

A context is a value with verbs: append, truncate, fork. It knows neither messages nor turns. The
Thinker and the Talker may lag behind `ids`: a token that was just sampled is *pending* until the
next step reads it, and the Talker reads rows only when there is something to speak. `length` counts
the ids, so it never depends on who has read what.
"""

from collections.abc import Generator
from pathlib import Path

import numpy as np
from msgspec import Struct

from omni_runtime.arrays import FloatArray, IntArray
from omni_runtime.engine.decoder import complete
from omni_runtime.engine.kv_cache import KVCache
from omni_runtime.engine.thinker import ThinkerOutput
from omni_runtime.inputs.prompt import MediaSlot, Prompt
from omni_runtime.model import Model

THINKER, TALKER, TOKENS = "thinker.npz", "talker.npz", "context.npz"
"""Files of a saved context."""

MIN_SPEECH_ROWS = 3
"""Rows that the Talker needs to say anything: voice, first reply row, one code."""


class ContextMark(Struct, frozen=True):
    """A place in a context: tokens before it, and the position id of the next token."""

    length: int
    position: int


class TalkerRows:
    """Rows for the Talker, float32 (n, hidden), with their positions, int64 (3, n)."""

    def __init__(self, width: int) -> None:
        self._rows = [np.zeros((0, width), np.float32)]
        self._positions = [np.zeros((3, 0), np.int64)]
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, rows: FloatArray, positions: IntArray) -> None:
        """Append rows."""
        self._rows.append(rows)  # joined when they are read: a reply adds them one by one
        self._positions.append(positions)
        self._count += len(rows)

    def arrays(self) -> tuple[FloatArray, IntArray]:
        """All rows and their positions."""
        self._rows = [np.concatenate(self._rows)]
        self._positions = [np.concatenate(self._positions, axis=1)]
        return self._rows[0], self._positions[0]

    def truncate(self, count: int) -> None:
        """Forget all but the first `count` rows."""
        rows, positions = self.arrays()
        self._rows, self._positions = [rows[:count]], [positions[:, :count]]
        self._count = min(count, self._count)

    def replace_start(self, stop: int, start: "TalkerRows") -> None:
        """Replace the first `stop` rows by those of `start`."""
        rows, positions = self.arrays()
        self._rows, self._positions = [rows[stop:]], [positions[:, stop:]]
        head, where = start.arrays()
        self._rows.insert(0, head)
        self._positions.insert(0, where)
        self._count += len(head) - stop

    def fork(self) -> "TalkerRows":
        """Return an independent copy. The arrays are never written to, so they are shared."""
        rows, positions = self.arrays()
        copy = TalkerRows(rows.shape[1])
        copy.add(rows, positions)
        return copy


class Context:
    """Token ids, both caches, and the rows that the Talker has not read yet."""

    def __init__(self, model: Model, limit: int | None = None) -> None:
        """An empty context of at most `limit` tokens (default: the model's own limit)."""
        self._model = model
        self._speaks = model.config.speech is not None
        self.thinker = model.thinker.new_cache(limit)
        self.talker: KVCache | None = None
        self.unread = TalkerRows(model.config.thinker.decoder.hidden_size)
        self.ids: list[int] = []
        self.position = 0
        self._tails: dict[int, int] = {}
        self._speech_start: int | None = None

    @property
    def text_position(self) -> int:
        """One more than the position of the last token.

        `position` is more if the pictures of a clip outlast its sound and the text behind it.
        """
        return self._tails.get(self.length, self.position)

    @property
    def length(self) -> int:
        """Tokens, pending ones included."""
        return len(self.ids)

    @property
    def limit(self) -> int:
        """Tokens that fit."""
        return self.thinker.limit

    @property
    def room(self) -> int:
        """Tokens that can still be appended."""
        return self.limit - self.length

    @property
    def pending(self) -> list[int]:
        """Tokens that the Thinker has not read yet."""
        return self.ids[self.thinker.length :]

    @property
    def nbytes(self) -> int:
        """Bytes of both caches."""
        return self.thinker.nbytes + (self.talker.nbytes if self.talker else 0)

    def mark(self) -> ContextMark:
        """The present end."""
        return ContextMark(self.length, self.position)

    def append(self, prompt: Prompt) -> Generator[None, None, FloatArray]:
        """Prefill a prompt in steps; returns the logits (vocabulary,) after its last token.

        Raises ContextFullError before any work. After any other failure, `truncate` to an earlier
        mark restores the context.
        """
        count = len(prompt.ids)
        self.thinker.check_room(len(self.pending) + count)
        prompt = self._with_pending(prompt)
        output = yield from self._model.thinker.prefill_steps(self.thinker, prompt)
        self._add_rows(output.talker_rows, prompt.positions)
        self.ids += prompt.ids[-count:].tolist()
        self.position = prompt.next_position
        self._note_tail(int(prompt.positions[0, -1]) + 1)
        return output.logits

    def push(self, token: int) -> None:
        """Append a sampled token; it stays pending until `forward`. There must be room."""
        assert self.room > 0
        self.ids.append(token)
        self.position += 1

    def forward(self) -> ThinkerOutput:
        """Let the Thinker read the one pending token."""
        (token,) = self.pending
        position = self.position - 1
        output = self._model.thinker.step(self.thinker, token, position)
        self._add_rows(output.talker_rows, np.full((3, 1), position, np.int64))
        return output

    def read_pending(self) -> None:
        """Let the Thinker read the pending token, if there is one."""
        if self.pending:
            self.forward()

    def reread_last(self) -> ThinkerOutput:
        """Read the last token once more, for its logits."""
        token, position, tail = self.ids[-1], self.position, self.text_position
        self.truncate(ContextMark(self.length - 1, tail - 1))
        self.push(token)
        output = self.forward()
        self.position = position
        self._note_tail(tail)
        return output

    def check_speech_room(self, mark: ContextMark | None = None) -> None:
        """Raise ContextFullError when the Talker could not say anything behind `mark`."""
        length = self.length if mark is None else mark.length
        cache = self._talker_cache()
        cache.check_room(length - min(cache.length, length) + MIN_SPEECH_ROWS)

    def read_unread(self) -> Generator[None, None, None]:
        """Let the Talker read, in steps, what it has not read yet."""
        cache = self._talker_cache()
        cache.check_room(len(self.unread) + MIN_SPEECH_ROWS)
        before = cache.length
        if len(self.unread):
            try:
                yield from self._model.talker.append(cache, *self.unread.arrays())
            except BaseException:
                cache.truncate(before)
                raise
        self.unread.truncate(0)

    def begin_speech(self) -> KVCache:
        """The Talker's cache, for codec rows until `end_speech`. All rows must have been read."""
        cache = self._talker_cache()
        self._speech_start = cache.length
        return cache

    def end_speech(self) -> None:
        """Remove the codec rows; the reply's own rows stay unread like those of a prompt."""
        if self._speech_start is not None and self.talker is not None:
            self.talker.truncate(self._speech_start)
        self._speech_start = None

    def truncate(self, mark: ContextMark) -> None:
        """Forget everything behind `mark`."""
        self.end_speech()
        read = 0 if self.talker is None else min(self.talker.length, mark.length)
        if self.talker is not None:
            self.talker.truncate(read)
        self.unread.truncate(mark.length - read)
        # A step that was interrupted may have filled the Thinker's cache and given no row.
        known = read + len(self.unread) if self._speaks else self.thinker.length
        self.thinker.truncate(min(self.thinker.length, mark.length, known))
        del self.ids[mark.length :]
        self._tails = {
            length: tail for length, tail in self._tails.items() if length <= mark.length
        }
        self.position = mark.position

    def replace_start(self, stop: int, start: "Context") -> Generator[None, None, None]:
        """Replace the first `stop` tokens by those of `start`, which are not more.

        What follows keeps its positions and its cached states, which were computed while the
        replaced tokens were there.
        """
        if self.talker is not None:  # either the cache or the unread rows hold all tokens
            yield from self.read_unread()
            yield from start.read_unread()
            self.talker.replace_start(stop, start._talker_cache())
        elif self._speaks:
            self.unread.replace_start(stop, start.unread)
        self.thinker.replace_start(stop, start.thinker)
        self.ids[:stop] = start.ids
        shift = stop - start.length
        self._tails = {n - shift: tail for n, tail in self._tails.items() if n > stop}

    def fork(self, limit: int | None = None) -> "Context":
        """Return an independent copy, by default with the same limit."""
        copy = Context.__new__(Context)
        copy._model, copy._speaks = self._model, self._speaks
        copy.thinker = self.thinker.fork(limit)
        copy.talker = self.talker.fork(limit) if self.talker is not None else None
        copy.unread = self.unread.fork()
        copy.ids, copy.position, copy._tails = [*self.ids], self.position, {**self._tails}
        copy._speech_start = None
        if copy.talker is not None and self._speech_start is not None:
            copy.talker.truncate(self._speech_start)
        return copy

    def save(self, folder: Path) -> None:
        """Write a context without pending tokens into an existing folder."""
        assert not self.pending
        self.thinker.save(folder / THINKER)
        if self.talker is not None:
            self.talker.save(folder / TALKER)
        rows, positions = self.unread.arrays()
        with (folder / TOKENS).open("wb") as file:
            np.savez(
                file,
                ids=np.array(self.ids, np.int64),
                position=self.position,
                rows=rows,
                positions=positions,
                tails=np.array([*self._tails.items()], np.int64).reshape(-1, 2),
            )

    @classmethod
    def load(cls, folder: Path, model: Model, limit: int | None = None) -> "Context":
        """Read what `save` wrote. Raises OmniError for another model's or a damaged file,
        ContextFullError for a context longer than `limit`."""
        context, dtype = cls(model, limit), model.options.kv_cache
        config = model.config.thinker.decoder
        context.thinker = KVCache.load(folder / THINKER, config, dtype, limit=limit)
        if (folder / TALKER).exists():
            config = model.speech.talker.decoder
            context.talker = KVCache.load(folder / TALKER, config, dtype, limit=limit)
        with np.load(folder / TOKENS, allow_pickle=False) as file:
            context.ids = file["ids"].tolist()
            context.position = int(file["position"])
            context.unread.add(file["rows"], file["positions"])
            if "tails" in file:  # earlier versions did not write it
                context._tails = dict(file["tails"].tolist())
        return context

    def prefill(self, prompt: Prompt) -> FloatArray:
        """`append` without steps."""
        return complete(self.append(prompt))

    def _talker_cache(self) -> KVCache:
        if self.talker is None:
            self.talker = self._model.talker.new_cache(self.limit)
        return self.talker

    def _note_tail(self, tail: int) -> None:
        if tail != self.position:
            self._tails[self.length] = tail

    def _add_rows(self, rows: FloatArray, positions: IntArray) -> None:
        if self._speaks:
            self.unread.add(rows, positions)

    def _with_pending(self, prompt: Prompt) -> Prompt:
        """The prompt behind the pending tokens, which are read together with it."""
        pending = self.pending
        if not pending:
            return prompt
        shift = len(pending)
        positions = np.arange(self.position - shift, self.position, dtype=np.int64)
        return Prompt(
            np.concatenate([np.array(pending, np.int64), prompt.ids]),
            np.concatenate([np.tile(positions, (3, 1)), prompt.positions], axis=1),
            [MediaSlot(slot.kind, slot.rows + shift, slot.features) for slot in prompt.media],
            prompt.next_position,
        )
