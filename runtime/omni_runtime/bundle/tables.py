"""Memory-mapped embedding tables: only the rows that are read take memory.

Encodings: float32; bfloat16, stored as uint16; int8 with one float32 scale per row.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from omni_runtime.arrays import FloatArray, IntArray
from omni_runtime.bundle.manifest import EXPORT_AGAIN, TableEntry
from omni_runtime.errors import BundleError

STORED = {"float32": "<f4", "bfloat16": "<u2", "int8": "|i1"}
"""Numpy dtype in the file, by encoding."""


class Table:
    """A table whose rows are decoded to float32 when they are read."""

    def __init__(self, folder: Path, entry: TableEntry) -> None:
        """Map the files. Raises BundleError when their shape or dtype is not the manifest's."""
        self.rows = entry.rows
        self.columns = entry.columns
        self._data = _map(folder / entry.file, (entry.rows, entry.columns), STORED[entry.encoding])
        self._scales = _map(folder / entry.scales, (entry.rows,), "<f4") if entry.scales else None

    def __getitem__(self, ids: IntArray) -> FloatArray:
        """Return rows float32 (n, columns) for int64 ids (n,)."""
        return decode(self._data[ids], None if self._scales is None else self._scales[ids])


def decode(stored: npt.NDArray[Any], scales: FloatArray | None) -> FloatArray:
    """Decode stored rows (n, columns) to float32. The dtype determines the encoding."""
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    if scales is not None:
        return stored.astype(np.float32) * scales[:, None]
    return np.array(stored, np.float32)


def _map(path: Path, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    try:
        data: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read: {error}", fix=EXPORT_AGAIN) from None
    if data.shape != shape or data.dtype != np.dtype(dtype):
        raise BundleError(
            f"{path} holds {data.dtype} {data.shape}, but the manifest states {dtype} {shape}",
            fix=EXPORT_AGAIN,
        )
    return data
