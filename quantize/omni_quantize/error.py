"""How far quantized results are from the float32 ones."""

from typing import Any

import numpy as np
import numpy.typing as npt

from omni_runtime.bundle.manifest import GraphError


class ErrorMeter:
    """Accumulates cosine similarity and the largest difference over pairs of arrays."""

    def __init__(self) -> None:
        self._dot = self._exact = self._near = 0.0
        self._difference = self._largest = 0.0

    def add(self, exact: npt.NDArray[Any], near: npt.NDArray[Any]) -> None:
        """Compare `near` with `exact`, of the same shape."""
        a, b = exact.astype(np.float64).ravel(), near.astype(np.float64).ravel()
        self._dot += float(a @ b)
        self._exact += float(a @ a)
        self._near += float(b @ b)
        self._difference = max(self._difference, float(np.abs(a - b).max(initial=0)))
        self._largest = max(self._largest, float(np.abs(a).max(initial=0)))

    def result(self) -> GraphError:
        """Cosine over everything seen, and the largest difference relative to the largest value."""
        norm = (self._exact * self._near) ** 0.5
        return GraphError(
            cosine=self._dot / norm if norm else 1.0,
            relative=self._difference / self._largest if self._largest else 0.0,
        )
