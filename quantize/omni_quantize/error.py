"""The error of quantized results against float32."""

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from omni_runtime.bundle.manifest import QuantizationError


class ErrorMeter:
    """Accumulates cosine similarity and maximum difference over pairs of arrays. Thread-safe."""

    def __init__(self, of: str) -> None:
        """`of` says what is compared; see `QuantizationError`."""
        self._of = of
        self._lock = threading.Lock()
        self._dot = self._exact = self._near = 0.0
        self._difference = self._largest = 0.0

    def add(self, exact: npt.NDArray[Any], near: npt.NDArray[Any]) -> None:
        """Add the error of `near` against `exact`, which have the same shape."""
        a, b = exact.astype(np.float64).ravel(), near.astype(np.float64).ravel()
        products = float(a @ b), float(a @ a), float(b @ b)
        difference, largest = np.abs(a - b).max(initial=0), np.abs(a).max(initial=0)
        with self._lock:
            self._dot += products[0]
            self._exact += products[1]
            self._near += products[2]
            self._difference = max(self._difference, float(difference))
            self._largest = max(self._largest, float(largest))

    def result(self) -> QuantizationError:
        """Return the cosine similarity, and the maximum difference over the maximum value."""
        norm = (self._exact * self._near) ** 0.5
        return QuantizationError(
            of=self._of,
            cosine=self._dot / norm if norm else 1.0,
            relative=self._difference / self._largest if self._largest else 0.0,
        )
