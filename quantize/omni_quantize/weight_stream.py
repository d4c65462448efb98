"""Weight streams: weights that are read, quantized and written a few columns at a time.

A method rewrites a graph without reading weights, and returns a weight stream for each weight that
it quantizes. The writer of the file writes the pieces of each stream at their offsets. Memory is
thus bounded by a slice of one matrix, for any size of model.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from omni_runtime.arrays import FloatArray

Parts = dict[str, npt.NDArray[Any]]
"""Inputs of the quantized operator, by the suffix of their names."""

Columns = Callable[[int, int], FloatArray]
"""(start, stop) -> columns start .. stop of a weight, float32 (inner, stop - start).

In any memory order. A checkpoint stores columns contiguously, which methods that pack columns can
use without a copy.
"""

WEIGHTS_PER_SLICE = 2**20
"""Weights per slice: 4 MiB as float32; the search of 4-bit blocks takes ten times as much."""

_COLUMNS = "omni_quantize.columns"


@dataclass(frozen=True)
class Layout:
    """An initializer that a weight stream writes: name suffix, dtype and shape."""

    part: str
    dtype: ir.DataType
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """Data of an initializer, at `offset` bytes from its start."""

    name: str
    offset: int
    data: npt.NDArray[Any]


SliceCallback = Callable[[FloatArray, Parts], None]
"""Receives each slice of a weight, in float32 and quantized."""


class WeightStream(Protocol):
    """Quantizes one weight (inner, outer) slice by slice."""

    @property
    def weight(self) -> str:
        """Name of the weight in the float32 graph."""
        ...

    @property
    def values(self) -> int:
        """Number of values."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the initializers that it writes."""
        ...

    def pieces(self, on_slice: SliceCallback | None = None) -> Iterator[Piece]:
        """Yield all bytes of all initializers once, in any order."""
        ...


def contiguous(values: FloatArray) -> FloatArray:
    """Return a matrix in C order, copied if it is not."""
    if not (values.flags.f_contiguous and values.flags.writeable):
        return np.ascontiguousarray(values)
    import torch  # noqa: PLC0415 - slow to import, and recipes do not need it

    # Twice as fast as numpy.
    return torch.from_numpy(values).contiguous().numpy()


def set_columns(tensor: ir.LazyTensor, columns: Columns) -> None:
    """Attach a function that reads some columns of a lazy weight."""
    tensor.meta[_COLUMNS] = columns


def columns_of(tensor: ir.TensorProtocol) -> Columns:
    """Return a function that reads columns; without `set_columns` it evaluates the whole tensor."""
    return _known_columns(tensor) or (lambda start, stop: tensor.numpy()[:, start:stop])


def _known_columns(tensor: ir.TensorProtocol) -> Columns | None:
    return tensor.meta.get(_COLUMNS) if isinstance(tensor, ir.LazyTensor) else None


def slices(inner: int, outer: int, least: int = 1) -> Iterator[tuple[int, int]]:
    """Yield column ranges of about `WEIGHTS_PER_SLICE` weights that cover the matrix.

    They have `least` columns or more.
    """
    step = max(least, WEIGHTS_PER_SLICE // inner)
    for start in range(0, outer, step):
        yield start, min(start + step, outer)


@dataclass(frozen=True)
class PlainTensor:
    """A tensor that is written without quantization."""

    tensor: ir.TensorProtocol

    @property
    def weight(self) -> str:
        assert self.tensor.name is not None
        return self.tensor.name

    @property
    def values(self) -> int:
        return self.tensor.size

    @property
    def names(self) -> tuple[str, ...]:
        return (self.weight,)

    def pieces(self, on_slice: SliceCallback | None = None) -> Iterator[Piece]:
        """Yield one piece. `on_slice` is not called, since nothing is quantized."""
        del on_slice
        columns = _known_columns(self.tensor)
        if columns is None:
            yield Piece(self.weight, 0, self.tensor.numpy())
            return
        inner, outer = self.tensor.shape.numpy()
        array = np.empty((inner, outer), np.float32)  # filled in slices, without a second copy
        for start, stop in slices(inner, outer):
            array[:, start:stop] = contiguous(columns(start, stop))
        yield Piece(self.weight, 0, array)


def register(
    graph: ir.Graph, weight: str, layout: Mapping[str, Layout], weight_stream: WeightStream
) -> list[ir.Value]:
    """Add the initializers that a weight stream writes to the graph, in order.

    Each one can also be evaluated alone, which quantizes the matrix once more.
    """
    values: list[ir.Value] = []
    for spec in layout.values():
        name = f"{weight}{spec.part}"
        tensor = ir.LazyTensor(
            lambda name=name, spec=spec: ir.tensor(_gather(weight_stream, name, spec)),
            dtype=spec.dtype,
            shape=ir.Shape(spec.shape),
            name=name,
        )
        value = ir.Value(
            name=name, shape=tensor.shape, type=ir.TensorType(spec.dtype), const_value=tensor
        )
        graph.register_initializer(value)
        values.append(value)
    return values


def _gather(weight_stream: WeightStream, name: str, spec: Layout) -> npt.NDArray[Any]:
    array = np.empty(spec.shape, spec.dtype.numpy())
    raw = array.reshape(-1).view(np.uint8)
    for piece in weight_stream.pieces():
        if piece.name == name:
            flat = np.ascontiguousarray(piece.data).reshape(-1).view(np.uint8)
            raw[piece.offset : piece.offset + flat.size] = flat
    return array
