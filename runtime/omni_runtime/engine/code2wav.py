"""Codes to sound while they are being drawn: decides how much the DiT and the vocoder take at once.

The first chunk is the smallest possible: one block and one block of look-ahead. Later chunks
grow, since larger ones cost less for each second of speech, and somebody is already listening.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from omni_runtime.engine.dit import Dit, MelStream, Noise
from omni_runtime.engine.vocoder import Vocoder, WaveStream

FloatArray = npt.NDArray[np.float32]

LOOK_AHEAD_BLOCKS = 1
COMMIT_BLOCKS = (1, 2, 4, 8)
"""Blocks committed by the first chunk, the second and so on; the last number then stays."""


class Code2Wav:
    """The sound of one utterance. A block is as many codes as the DiT attends to at once."""

    def __init__(self, dit: Dit, vocoder: Vocoder, voice: FloatArray, noise: Noise) -> None:
        self.commit_blocks: Sequence[int] = COMMIT_BLOCKS
        self._mel = MelStream(dit, voice, noise)
        self._wave = WaveStream(vocoder, dit.config.mel_dim)
        self._codes: list[int] = []
        self._chunks = 0

    def push(self, code: int) -> FloatArray | None:
        """Add a code; samples when a chunk became ready."""
        self._codes.append(code)
        commit = self.commit_blocks[min(self._chunks, len(self.commit_blocks) - 1)]
        if len(self._codes) < (commit + LOOK_AHEAD_BLOCKS) * self._mel.codes_per_block:
            return None
        return self._synthesize(commit, last=False)

    def finish(self) -> FloatArray | None:
        """All that is left, as one last chunk; None when nothing is."""
        if not self._codes:
            return None
        blocks = -(-len(self._codes) // self._mel.codes_per_block)
        return self._synthesize(blocks, last=True)

    def _synthesize(self, commit: int, *, last: bool) -> FloatArray:
        chunk = self._mel.chunk(np.array(self._codes, np.int64), commit)
        del self._codes[: commit * self._mel.codes_per_block]
        self._chunks += 1
        return self._wave.push(chunk.mel, chunk.provisional, last=last)
