"""Embedding tables as memory-mapped files: a row costs a read, the table costs no memory.

Encodings: float32 as it is, bfloat16 as its 16 bits, int8 with one float32 scale a row.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from omni_runtime.arrays import FloatArray, IntArray
from omni_runtime.bundle.manifest import EXPORT_AGAIN, TableEntry
from omni_runtime.errors import BundleError

STORED = {"float32": "<f4", "bfloat16": "<u2", "int8": "|i1"}
"""Encoding to the numpy dtype in the file."""


class Table:
    """Rows of float32, decoded when they are asked for."""

    def __init__(self, folder: Path, entry: TableEntry) -> None:
        """Raises BundleError when the files do not hold what the manifest says."""
        self.rows = entry.rows
        self.columns = entry.columns
        self._data = _map(folder / entry.file, (entry.rows, entry.columns), STORED[entry.encoding])
        self._scales = _map(folder / entry.scales, (entry.rows,), "<f4") if entry.scales else None

    def __getitem__(self, ids: IntArray) -> FloatArray:
        """Rows float32 (n, columns) for int64 ids (n,)."""
        return decode(self._data[ids], None if self._scales is None else self._scales[ids])


def decode(stored: npt.NDArray[Any], scales: FloatArray | None) -> FloatArray:
    """Float32 rows (n, columns) of what is stored; the dtype tells the encoding."""
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    if scales is not None:
        return stored.astype(np.float32) * scales[:, None]
    return np.array(stored, np.float32)


def _map(path: Path, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    try:
        data: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} can't be read: {error}", fix=EXPORT_AGAIN) from None
    if data.shape != shape or data.dtype != np.dtype(dtype):
        raise BundleError(
            f"{path} holds {data.dtype} {data.shape}, the manifest says {dtype} {shape}",
            fix=EXPORT_AGAIN,
        )
    return data
