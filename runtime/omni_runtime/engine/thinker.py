"""The Thinker: token ids and media to hidden states and text logits.

It also returns one row per token for the Talker: the hidden state plus the input embedding, where
the embedding of media rows counts as zero.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np

from omni_runtime.arrays import FloatArray, IntArray
from omni_runtime.bundle.config import ThinkerConfig
from omni_runtime.bundle.tables import Table
from omni_runtime.engine.decoder import Decoder, complete
from omni_runtime.engine.encoders import AudioEncoder, VisionEncoder
from omni_runtime.engine.kv_cache import KVCache
from omni_runtime.inputs.pixels import Patches
from omni_runtime.inputs.prompt import Prompt


@dataclass(frozen=True)
class ThinkerOutput:
    """`logits` (vocabulary,) after the last token; `talker_rows` (n, hidden), one per token."""

    logits: FloatArray
    talker_rows: FloatArray


class Thinker:
    """Runs the Thinker's graph. Encoders are loaded when the first medium is encoded."""

    def __init__(
        self,
        config: ThinkerConfig,
        decoder: Decoder,
        table: Table,
        audio_encoder: Callable[[], AudioEncoder],
        vision_encoder: Callable[[], VisionEncoder],
    ) -> None:
        self.config = config
        self._decoder = decoder
        self._table = table
        self._audio_encoder = audio_encoder
        self._vision_encoder = vision_encoder

    def new_cache(self, limit: int | None = None) -> KVCache:
        return self._decoder.new_cache(self.config.decoder, limit)

    def embed(self, tokens: IntArray) -> FloatArray:
        """Return rows of the embedding table, float32 (n, hidden), for ids (n,)."""
        return self._table[tokens]

    def prefill(self, cache: KVCache, prompt: Prompt) -> ThinkerOutput:
        """Append a prompt with its media. Raises ContextFullError before any work is done."""
        return complete(self.prefill_steps(cache, prompt))

    def prefill_steps(self, cache: KVCache, prompt: Prompt) -> Generator[None, None, ThinkerOutput]:
        """Like `prefill`, in steps: one per medium, then one per piece of the prompt."""
        cache.check_room(len(prompt.ids))
        rows = self.embed(prompt.ids)
        embeddings_for_talker = rows.copy()
        for slot in prompt.media:
            if isinstance(slot.features, Patches):
                rows[slot.rows] = self._vision_encoder().encode(slot.features)
            else:
                rows[slot.rows] = self._audio_encoder().encode(slot.features)
            embeddings_for_talker[slot.rows] = 0
            yield
        outputs = yield from self._decoder.extend_steps(cache, rows, prompt.positions)
        return ThinkerOutput(outputs["logits"], outputs["hidden"] + embeddings_for_talker)

    def step(self, cache: KVCache, token: int, position: int) -> ThinkerOutput:
        """Append one token of the reply."""
        rows = self.embed(np.array([token]))
        outputs = self._decoder.extend(cache, rows, np.full((3, 1), position, np.int64))
        return ThinkerOutput(outputs["logits"], outputs["hidden"] + rows)
