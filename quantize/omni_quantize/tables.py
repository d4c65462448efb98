"""Embedding tables in fewer bits, written a slice at a time."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from omni_quantize.error import ErrorMeter
from omni_runtime.bundle.manifest import TableEntry
from omni_runtime.bundle.tables import STORED

FloatArray = npt.NDArray[np.float32]
ROWS_AT_ONCE = 4096


Rows = Callable[[int, int], FloatArray]
"""(start, stop) -> float32 (stop - start, columns) of a table."""


def write(folder: Path, name: str, shape: tuple[int, int], read: Rows, encoding: str) -> TableEntry:
    """Write a table of `shape` (rows, columns) as tables/NAME.npy below `folder`.

    bfloat16 rounds to nearest even; int8 keeps the largest value of each row exactly.
    """
    rows, columns = shape
    file = f"tables/{name}.npy"
    scale_file = f"tables/{name}.scales.npy" if encoding == "int8" else None
    (folder / file).parent.mkdir(exist_ok=True)
    out = np.lib.format.open_memmap(
        folder / file, mode="w+", dtype=STORED[encoding], shape=(rows, columns)
    )
    scales = np.zeros(rows, "<f4")
    meter = ErrorMeter()
    for part in _slices(rows):
        values = read(part.start, part.stop)
        if encoding == "int8":
            scales[part] = np.abs(values).max(axis=1) / 127
            safe = np.where(scales[part] > 0, scales[part], 1)[:, None]
            out[part] = np.rint(values / safe)
            meter.add(values, out[part].astype(np.float32) * scales[part][:, None])
        elif encoding == "bfloat16":
            bits = values.view(np.uint32)
            out[part] = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
            meter.add(values, (out[part].astype(np.uint32) << 16).view(np.float32))
        else:
            out[part] = values
    out.flush()
    if scale_file:
        np.save(folder / scale_file, scales)
    return TableEntry(
        file=file,
        scales=scale_file,
        encoding=encoding,
        rows=rows,
        columns=columns,
        error=None if encoding == "float32" else meter.result(),
    )


def _slices(rows: int) -> Iterator[slice]:
    for start in range(0, rows, ROWS_AT_ONCE):
        yield slice(start, min(rows, start + ROWS_AT_ONCE))
