"""Rotary frequencies and angles, rounded once, so that every processor computes the same.

numpy's float32 power, cosine and sine depend on the processor: they differ by an ulp or two.
"""

import numpy as np

from omni_runtime.arrays import FloatArray


def inverse_frequencies(dimension: int, theta: float) -> FloatArray:
    """Return 1 / theta ** (2 i / dimension), float32 (dimension // 2,), as torch computes it."""
    exponents = np.arange(0, dimension, 2, dtype=np.float32) / np.float32(dimension)
    powers = np.float64(np.float32(theta)) ** exponents.astype(np.float64)
    return np.float32(1) / powers.astype(np.float32)


def cos_sin(angles: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the cosine and sine of float32 angles in radians, computed in float64 and rounded."""
    exact = angles.astype(np.float64)
    return np.cos(exact).astype(np.float32), np.sin(exact).astype(np.float32)
