"""Resample audio in pieces, with the same result as in one piece."""

import math

import numpy as np
import soxr  # pyright: ignore[reportMissingTypeStubs]

from omni_runtime.arrays import FloatArray

_QUALITY = "HQ"
"""librosa.resample's default."""


class Resampler:
    """Streaming soxr, with the length of librosa.resample: ceil(n * sample_rate / rate)."""

    def __init__(self, rate: float, sample_rate: int) -> None:
        """`rate` of the input and `sample_rate` of the output are in hertz."""
        self.rate = rate
        self._sample_rate = sample_rate
        self._taken = self._given = 0
        self._stream = None
        if rate != sample_rate:
            self._stream = soxr.ResampleStream(rate, sample_rate, 1, quality=_QUALITY)

    def push(self, samples: FloatArray) -> FloatArray:
        """Resample the next samples (n,). The result lags behind by the length of the filter."""
        self._taken += len(samples)
        if self._stream is not None and len(samples):
            samples = np.asarray(self._stream.resample_chunk(samples), np.float32)
        self._given += len(samples)
        return samples

    def finish(self) -> FloatArray:
        """Return the rest."""
        if self._stream is None:
            return np.zeros(0, np.float32)
        rest = np.asarray(self._stream.resample_chunk(np.zeros(0, np.float32), last=True))
        # soxr rounds the length to the nearest integer.
        length = resampled_length(self._taken, self.rate, self._sample_rate) - self._given
        return np.pad(rest[:length], (0, max(0, length - len(rest))))


def resampled_length(samples: int, rate: float, sample_rate: int) -> int:
    """Return the length of librosa.resample's result."""
    return math.ceil(samples * sample_rate / rate)
