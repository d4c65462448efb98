"""Quantize embedding tables, one slice at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from omni_quantize.error import ErrorMeter
from omni_runtime.arrays import FloatArray
from omni_runtime.bundle.manifest import TableEntry
from omni_runtime.bundle.tables import STORED, decode

VALUES_AT_ONCE = 2**21


Encoded = tuple[npt.NDArray[Any], FloatArray | None]
"""Stored rows, and their scales if the encoding has scales."""

Rows = Callable[[int, int], FloatArray]
"""(start, stop) -> rows of a table, float32 (stop - start, columns)."""


def _float32(values: FloatArray) -> Encoded:
    return values, None


def _bfloat16(values: FloatArray) -> Encoded:
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16), None


def _int8(values: FloatArray) -> Encoded:
    scale = np.abs(values).max(axis=1) / np.float32(127)
    divisor = np.where(scale > 0, scale, 1)[:, None]
    return np.rint(values / divisor).astype(np.int8), scale


ENCODERS: dict[str, Callable[[FloatArray], Encoded]] = {
    "float32": _float32,
    "bfloat16": _bfloat16,
    "int8": _int8,
}


def write(
    folder: Path,
    name: str,
    shape: tuple[int, int],
    read: Rows,
    encoding: str,
    advance: Callable[[int], None] | None = None,
) -> TableEntry:
    """Write a table of `shape` (rows, columns) as tables/NAME.npy below `folder`.

    bfloat16 rounds to nearest even; int8 has one scale per row. `advance` receives the number of
    values written since its last call.
    """
    rows, columns = shape
    step = max(1, VALUES_AT_ONCE // columns)
    file = f"tables/{name}.npy"
    scale_file = f"tables/{name}.scales.npy" if encoding == "int8" else None
    (folder / file).parent.mkdir(exist_ok=True)
    scales = np.zeros(rows, "<f4")
    meter = ErrorMeter("rows")
    header = {"descr": STORED[encoding], "fortran_order": False, "shape": shape}
    # Not memory-mapped: on a full disk a write to a mapped file kills the process.
    with (folder / file).open("wb") as out:
        np.lib.format.write_array_header_1_0(out, header)
        for start in range(0, rows, step):
            values = read(start, min(rows, start + step))
            stored, scale = ENCODERS[encoding](values)
            out.write(np.ascontiguousarray(stored, STORED[encoding]).tobytes())
            if scale is not None:
                scales[start : start + len(scale)] = scale
            meter.add(values, decode(stored, scale))
            if advance is not None:
                advance(values.size)
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
