"""Weights that the checkpoint has in 4 bits already (AWQ, GPTQ): stored as they are, without loss.

Scales and integers keep their values. A group of inputs becomes a block, or several blocks with the
same scale. Where groups are not contiguous, the inputs of the product are sorted by group first.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from omni_quantize.nbits import BlockMatrix, replace_product
from omni_quantize.recipe import Rule
from omni_quantize.weight_stream import (
    Parts,
    Piece,
    SliceCallback,
    WeightStream,
    columns_of,
    slices,
)
from omni_runtime.arrays import FloatArray
from omni_runtime.errors import OmniError

_PACKED = "omni_quantize.packed"
Block = Literal[16, 32, 64, 128, 256]
BLOCKS: tuple[Block, ...] = (128, 64, 32, 16)
MIDDLE = 8
"""The zero point of symmetric weights."""


@dataclass(frozen=True)
class Codes:
    """Some outputs of a weight: `integers` uint8 (outputs, inputs), in the order of the groups.

    `scales` float32 and `zeros` uint8 are (outputs, groups).
    """

    integers: npt.NDArray[np.uint8]
    scales: FloatArray
    zeros: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PackedColumns:
    """A weight in 4 bits. `read` returns the codes of columns (outputs) start .. stop.

    `order`: the inputs sorted by group, int64 (inputs,), or None if they are. `symmetric`: all zero
    points are 8. `half`: all scales are values of float16.
    """

    group: int
    order: npt.NDArray[np.int64] | None
    symmetric: bool
    half: bool
    read: Callable[[int, int], Codes]


def set_packed(tensor: ir.LazyTensor, packed: PackedColumns) -> None:
    """Attach the integers of a lazy weight, whose values they are exactly."""
    tensor.meta[_PACKED] = packed


def packed_of(weight: ir.Value) -> PackedColumns | None:
    """Return the integers of a weight that the checkpoint has in 4 bits."""
    tensor = weight.const_value
    return tensor.meta.get(_PACKED) if isinstance(tensor, ir.LazyTensor) else None


def rule_of(weight: str, packed: PackedColumns) -> Rule:
    """Return the rule that describes a weight as the checkpoint has it.

    Raises OmniError for groups that no block divides.
    """
    blocks: list[Block] = [size for size in BLOCKS if packed.group % size == 0]
    if not blocks:
        raise OmniError(
            f"{weight} is quantized in groups of {packed.group} inputs",
            fix="give --model the unquantized checkpoint",
        )
    return Rule(
        match=weight,
        method="nbits",
        reason="quantized in the checkpoint",
        bits=4,
        block=blocks[0],
        symmetric=packed.symmetric,
    )


@dataclass(frozen=True)
class ImportedMatrix(BlockMatrix):
    """One weight (inner, outer) whose integers and scales are known."""

    packed: PackedColumns | None = None

    @property
    def has_kernel(self) -> bool:
        assert self.packed is not None
        return super().has_kernel and self.packed.half

    def pieces(self, on_slice: SliceCallback | None = None) -> Iterator[Piece]:
        assert self.packed is not None
        written = dict.fromkeys(self.layout(0), 0)
        for start, stop in slices(self.inner, self.outer):
            codes = self.packed.read(start, stop)
            parts = self._parts(codes, self.packed.group)
            if on_slice is not None:
                on_slice(_values(codes, self.packed.group), parts)
            for part, data in parts.items():
                yield Piece(f"{self.weight}.{part}", written[part], data)
                written[part] += data.nbytes

    def _parts(self, codes: Codes, group: int) -> Parts:
        repeats, block = group // self.rule.block, self.rule.block
        pairs = codes.integers[:, ::2] | codes.integers[:, 1::2] << 4
        scales = np.repeat(codes.scales, repeats, axis=1)
        layout = self.layout(len(pairs))
        parts: Parts = {
            "packed": pairs.reshape(len(pairs), -1, block // 2),
            "scales": scales.astype(layout["scales"].dtype.numpy()),
        }
        if not self.rule.symmetric:
            zeros = np.repeat(codes.zeros, repeats, axis=1)
            zeros = np.pad(zeros, ((0, 0), (0, zeros.shape[1] % 2)))
            parts["zero_points"] = zeros[:, ::2] | zeros[:, 1::2] << 4
        return parts


def _values(codes: Codes, group: int) -> FloatArray:
    """Return the weights, float32 (inputs, outputs), the inputs in the order of the groups."""
    zeros, scales = (np.repeat(part, group, axis=1) for part in (codes.zeros, codes.scales))
    values: FloatArray = (codes.integers.astype(np.float32) - zeros) * scales
    return values.T


def rewrite(model: ir.Model, rules: dict[str, Rule]) -> list[WeightStream]:
    """Replace the MatMul of each weight that the checkpoint has in 4 bits.

    `rules` are those of `rule_of`; weights with another rule are left as they are.
    """
    made: list[WeightStream] = []
    for node in list(model.graph):
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        packed = packed_of(weight) if weight is not None else None
        if weight is None or packed is None or weight.name not in rules:
            continue
        rule = rules[weight.name]
        if rule != rule_of(weight.name, packed):
            continue
        assert weight.const_value is not None
        inner, outer = weight.const_value.shape.numpy()
        columns = columns_of(weight.const_value)
        matrix = ImportedMatrix(weight.name, inner, outer, rule, columns, packed=packed)
        if packed.order is not None:
            _sort_inputs(model.graph, node, packed.order)
        made.append(replace_product(model, node, weight, matrix))
    return made


def _sort_inputs(graph: ir.Graph, node: ir.Node, order: npt.NDArray[np.int64]) -> None:
    """Let the product read its inputs in this order."""
    name = f"{node.name or node.outputs[0].name}.order"
    tensor = ir.tensor(order, name=name)
    indices = ir.Value(
        name=name,
        shape=ir.Shape(order.shape),
        type=ir.TensorType(ir.DataType.INT64),
        const_value=tensor,
    )
    graph.register_initializer(indices)
    gather = ir.node("Gather", [node.inputs[0], indices], {"axis": -1})
    gather.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    gather.outputs[0].name = f"{name}.sorted"
    graph.insert_before(node, gather)
    node.replace_input_with(0, gather.outputs[0])
