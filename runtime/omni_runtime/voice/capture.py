"""The microphone's samples in whole frames, and the last seconds of them."""

from collections import deque
from collections.abc import Iterator

import numpy as np

from omni_runtime.arrays import FloatArray
from omni_runtime.voice.vad import FRAME, SAMPLE_RATE

HISTORY_SECONDS = 8.0
"""Samples that are kept: for the start of a turn, and for Smart Turn."""


class Capture:
    """Counts samples, float32 mono at 16 kHz; `samples` are those of all frames so far."""

    def __init__(self) -> None:
        self.samples = 0
        self._rest = np.zeros(0, np.float32)  # samples short of a frame
        kept = round(HISTORY_SECONDS * SAMPLE_RATE / FRAME)
        self._history: deque[FloatArray] = deque(maxlen=kept)

    @property
    def seconds(self) -> float:
        """Seconds of all frames so far."""
        return self.samples / SAMPLE_RATE

    def frames(self, samples: FloatArray) -> Iterator[FloatArray]:
        """Append samples (n,); yield whole frames, each counted before it is given."""
        joined = np.concatenate([self._rest, samples])
        whole = len(joined) // FRAME * FRAME
        self._rest = joined[whole:]
        for start in range(0, whole, FRAME):
            frame = joined[start : start + FRAME]
            self.samples += FRAME
            self._history.append(frame)
            yield frame

    def since(self, start: int) -> tuple[int, FloatArray]:
        """The samples from `start` on, as far as they are kept, and where they really start."""
        kept = np.concatenate([np.zeros(0, np.float32), *self._history])
        first = min(max(start, self.samples - len(kept)), self.samples)
        return first, kept[len(kept) - (self.samples - first) :]
