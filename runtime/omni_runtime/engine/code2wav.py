"""Streaming synthesis: codec codes to samples through the DiT and the vocoder.

A `ChunkScheduler` decides how many codes are synthesized at once and when samples are released.
"""

import numpy as np

from omni_runtime.arrays import FloatArray
from omni_runtime.engine.chunk_scheduler import FIRST_LOOK_AHEAD_CODES, ChunkScheduler
from omni_runtime.engine.dit import Dit, MelStream, Noise
from omni_runtime.engine.vocoder import Vocoder, WaveStream

LOOK_AHEAD_BLOCKS = 1


class Code2Wav:
    """Synthesizes one utterance. A block is as many codes as the DiT attends to at once."""

    def __init__(
        self, dit: Dit, vocoder: Vocoder, voice: FloatArray, noise: Noise, scheduler: ChunkScheduler
    ) -> None:
        self._mel = MelStream(dit, voice, noise)
        self._wave = WaveStream(vocoder, dit.config.mel_dim)
        self._scheduler = scheduler
        self._rate = vocoder.config.sample_rate
        self._codes: list[int] = []
        self._held: list[FloatArray] = []

    def push(self, code: int) -> FloatArray | None:
        """Add a code; return samples, float32 (n,), when some are released."""
        self._codes.append(code)
        block = self._mel.codes_per_block
        waited_for = self._scheduler.low_latency and not self._mel.blocks_done
        ahead = FIRST_LOOK_AHEAD_CODES if waited_for else LOOK_AHEAD_BLOCKS * block
        ready, more = divmod(len(self._codes) - ahead, block)
        commit = self._scheduler.commit(ready, block - more)
        if not commit:
            return None
        # Exactly this look-ahead, even if more codes are known: chunks must not depend on timing.
        chunk = self._mel.chunk(np.array(self._codes[: commit * block + ahead], np.int64), commit)
        del self._codes[: commit * block]
        self._held.append(self._wave.push(chunk.mel, chunk.provisional, last=False))
        heard = self._scheduler.chunk_done(commit, len(self._held[-1]) / self._rate)
        return self._release() if heard else None

    def finish(self) -> FloatArray | None:
        """Synthesize the rest as one last chunk; None when nothing is left."""
        if self._codes:
            blocks = -(-len(self._codes) // self._mel.codes_per_block)
            chunk = self._mel.chunk(np.array(self._codes, np.int64), blocks)
            self._codes.clear()
            self._held.append(self._wave.push(chunk.mel, chunk.provisional, last=True))
        return self._release() if self._held else None

    def _release(self) -> FloatArray:
        samples = np.concatenate(self._held)
        self._held.clear()
        return samples
