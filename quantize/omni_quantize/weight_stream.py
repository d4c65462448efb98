"""Quantized weights as weight_streams: read, packed and handed over a few columns at a time.

A method rewrites a graph without reading anything and returns one weight_stream for each weight it
takes over. Whoever writes the graph's file asks it for its pieces and puts each in its place, so
what is in memory is a slice of one matrix, however large the model is.
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

In any memory order; a checkpoint's own is column after column, which a method that packs columns
reads as it is.
"""

WEIGHTS_AT_ONCE = 2**21
"""Weights in one slice: 8 MiB as float32, which stays in a processor's cache."""

_COLUMNS = "omni_quantize.columns"


@dataclass(frozen=True)
class Layout:
    """One initializer that a weight_stream fills: its suffix, dtype, and shape."""

    part: str
    dtype: ir.DataType
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """Bytes of one initializer, to be written `offset` bytes after its beginning."""

    name: str
    offset: int
    data: npt.NDArray[Any]


SliceCallback = Callable[[FloatArray, Parts], None]
"""Gets each slice of a weight, exact and quantized."""


class WeightStream(Protocol):
    """One weight (inner, outer) on its way into the file."""

    @property
    def weight(self) -> str:
        """Its name in the float32 graph."""
        ...

    @property
    def values(self) -> int:
        """How many weights it has."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """The initializers that its pieces fill."""
        ...

    def pieces(self, on_slice: SliceCallback | None = None) -> Iterator[Piece]:
        """All bytes of all initializers, in any order, each once."""
        ...


def contiguous(values: FloatArray) -> FloatArray:
    """Return a matrix in C order, copied if it is not."""
    if not (values.flags.f_contiguous and values.flags.writeable):
        return np.ascontiguousarray(values)
    import torch  # noqa: PLC0415 - whoever only asks for a recipe need not wait for it

    # Transposing is twice as fast as numpy's.
    return torch.from_numpy(values).contiguous().numpy()


def set_columns(tensor: ir.LazyTensor, columns: Columns) -> None:
    """Say how to have some columns of a lazy weight without the rest."""
    tensor.meta[_COLUMNS] = columns


def columns_of(tensor: ir.TensorProtocol) -> Columns:
    """How to have columns of a weight; without `set_columns` the whole is made for each slice."""
    return _known_columns(tensor) or (lambda start, stop: tensor.numpy()[:, start:stop])


def _known_columns(tensor: ir.TensorProtocol) -> Columns | None:
    return tensor.meta.get(_COLUMNS) if isinstance(tensor, ir.LazyTensor) else None


def slices(inner: int, outer: int) -> Iterator[tuple[int, int]]:
    """Ranges of columns, each about `WEIGHTS_AT_ONCE` weights, that make up the whole."""
    step = max(1, WEIGHTS_AT_ONCE // inner)
    for start in range(0, outer, step):
        yield start, min(start + step, outer)


@dataclass(frozen=True)
class PlainTensor:
    """A tensor that no method quantizes: it is written as it is."""

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
        """One piece. `on_slice` is not called: nothing is quantized."""
        del on_slice
        columns = _known_columns(self.tensor)
        if columns is None:
            yield Piece(self.weight, 0, self.tensor.numpy())
            return
        inner, outer = self.tensor.shape.numpy()
        whole = np.empty((inner, outer), np.float32)  # filled by slices: never there twice
        for start, stop in slices(inner, outer):
            whole[:, start:stop] = contiguous(columns(start, stop))
        yield Piece(self.weight, 0, whole)


def register(
    graph: ir.Graph, weight: str, layout: Mapping[str, Layout], weight_stream: WeightStream
) -> list[ir.Value]:
    """Add the initializers that a weight_stream fills, in order.

    Each can also be evaluated by itself, at the cost of quantizing the matrix for it.
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
    whole = np.empty(spec.shape, spec.dtype.numpy())
    raw = whole.reshape(-1).view(np.uint8)
    for piece in weight_stream.pieces():
        if piece.name == name:
            flat = np.ascontiguousarray(piece.data).reshape(-1).view(np.uint8)
            raw[piece.offset : piece.offset + flat.size] = flat
    return whole
