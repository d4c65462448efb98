"""The Talker: rows of the Thinker to codec codes, one code for every 20 ms of speech.

Its KV cache follows the conversation like the Thinker's. A reply starts with the voice's text bos,
then consumes one reply row per code; after the last row one text eos, then text pad until the end.
After the reply the codec rows are truncated, and the reply's rows are appended like prompt rows.
The reference recomputes the whole conversation each turn; here it stays cached.
"""

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from omni_runtime.arrays import FloatArray, IntArray
from omni_runtime.bundle.config import TalkerConfig
from omni_runtime.bundle.tables import Table
from omni_runtime.engine.decoder import Decoder
from omni_runtime.engine.kv_cache import KVCache
from omni_runtime.engine.sampling import Sampling, sample, suppress


def own_sampling(config: TalkerConfig) -> Sampling:
    """Return the sampling settings of the checkpoint."""
    return Sampling(config.temperature, config.top_k, config.top_p, config.repetition_penalty)


@dataclass(frozen=True)
class TalkerSettings:
    """How codes are sampled, and the maximum number of them."""

    sampling: Sampling
    max_codes: int
    random: np.random.Generator


class Talker:
    """Runs the Talker's graph."""

    def __init__(
        self,
        config: TalkerConfig,
        decoder: Decoder,
        codec_table: Table,
        text_table: Table,
        codes: int,
    ) -> None:
        """`codes` is the number of codes that the DiT knows; no other code is ever sampled."""
        self.config = config
        self._decoder = decoder
        self._codec_table = codec_table
        self._text_table = text_table
        vocabulary = np.arange(config.decoder.vocab_size)
        speakable = (vocabulary < codes) | np.isin(vocabulary, config.codec_eos)
        self._banned = vocabulary[~speakable | (vocabulary == config.codec_bos)]

    def new_cache(self, limit: int | None = None) -> KVCache:
        return self._decoder.new_cache(self.config.decoder, limit)

    def append(
        self, cache: KVCache, rows: FloatArray, positions: IntArray
    ) -> Generator[None, None, object]:
        """Append rows of the conversation (n, input_size) at positions (3, n), in steps."""
        return self._decoder.extend_steps(cache, rows, positions)

    def start(
        self,
        cache: KVCache,
        text_bos: int,
        first_row: FloatArray,
        position: int,
        settings: TalkerSettings,
        following: int = 0,
    ) -> "CodecStream":
        """Start the speech of a reply whose first row is `first_row` (input_size,).

        The voice and the first row continue the text, from `position` on. The rows after them are
        at `following` or later, which is behind all pictures of the prompt, as in the reference.
        """
        return CodecStream(self, cache, text_bos, first_row, position, settings, following)

    def codec(self, code: int) -> FloatArray:
        """Embedding of a code, (input_size,)."""
        return self._codec_table[np.array([code])][0]

    def text(self, token: int) -> FloatArray:
        """Embedding of a text token in the Thinker's table, (input_size,)."""
        return self._text_table[np.array([token])][0]

    def logits(self, cache: KVCache, rows: FloatArray, position: int) -> FloatArray:
        """Append rows (n, input_size) from `position` on; return the last codec logits."""
        positions = np.arange(position, position + len(rows), dtype=np.int64)
        return self._decoder.extend(cache, rows, np.tile(positions, (3, 1)))["logits"]

    def sample_code(self, logits: FloatArray, seen: set[int], settings: TalkerSettings) -> int:
        """Sample a code that the DiT knows, or an end code."""
        allowed = suppress(logits, self._banned)
        return sample(allowed, settings.sampling, seen, settings.random)


class CodecStream:
    """The codes of one reply, decoded one by one as the reply's rows arrive."""

    def __init__(
        self,
        talker: Talker,
        cache: KVCache,
        text_bos: int,
        first_row: FloatArray,
        position: int,
        settings: TalkerSettings,
        following: int,
    ) -> None:
        config = talker.config
        self._talker = talker
        self._cache = cache
        self._position, self._following = position, following
        self._settings = settings
        self._rows: list[FloatArray] = []
        self._text_ended = False
        self._eos_said = False
        # The reference's repetition penalty includes the placeholder codes of the prompt.
        self._seen = {config.codec_pad, config.codec_bos}
        if cache.length:
            self._seen.add(config.codec_mask)
        self._next_rows = np.stack(
            [
                talker.text(text_bos) + talker.codec(config.codec_pad),
                first_row + talker.codec(config.codec_bos),
            ]
        )
        self.codes: list[int] = []
        self.logits = np.zeros(0, np.float32)
        """Of the last step (codec vocabulary,), before suppression and penalty."""
        self.ended = False
        self.complete = False

    def feed(self, row: FloatArray) -> None:
        """Add the next row of the reply, (input_size,)."""
        self._rows.append(row)

    def end_text(self) -> None:
        """Signal that no more rows will come."""
        self._text_ended = True

    @property
    def ready(self) -> bool:
        """Whether `step` has all it needs."""
        return not self.ended and (not self.codes or bool(self._rows) or self._text_ended)

    def step(self) -> int | None:
        """Decode the next code; None when the speech has ended."""
        if self.codes:
            self._next_rows = (self._talker.codec(self.codes[-1]) + self._reply_row())[None]
        self.logits = self._talker.logits(self._cache, self._next_rows, self._position)
        self._position = max(self._position + len(self._next_rows), self._following)
        code = self._talker.sample_code(self.logits, self._seen, self._settings)
        if code in self._talker.config.codec_eos:
            self.ended = self.complete = True
            return None
        self._seen.add(code)
        self.codes.append(code)
        if len(self.codes) >= self._settings.max_codes or self._cache.room == 0:
            self.ended = True
        return code

    def _reply_row(self) -> FloatArray:
        if self._rows:
            return self._rows.pop(0)
        config = self._talker.config
        token = config.text_pad if self._eos_said else config.text_eos
        self._eos_said = True
        return self._talker.text(token)
