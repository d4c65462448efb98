"""16-bit mono wav: samples and headers."""

import numpy as np

from omni_runtime.arrays import FloatArray

UNKNOWN_LENGTH = 0x7FFFF000
"""Data length in the header of a streamed wav, whose real length is not known yet."""


def pcm16(samples: FloatArray) -> bytes:
    """Convert float32 samples to little-endian 16-bit PCM."""
    return np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def wav_header(rate: int, length: int) -> bytes:
    """Return the header of a 16-bit mono wav with `length` bytes of samples."""

    def word(number: int, size: int = 4) -> bytes:
        return number.to_bytes(size, "little")

    form = word(1, 2) + word(1, 2) + word(rate) + word(2 * rate) + word(2, 2) + word(16, 2)
    head = b"RIFF" + word(length + 36) + b"WAVEfmt " + word(16)
    return head + form + b"data" + word(length)
