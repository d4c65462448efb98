"""Blockwise weight quantization: MatMul becomes MatMulNBits.

Where the runtime may have a faster kernel, it becomes BlockMatMul, an ONNX function, or TableMatMul
if the rule has levels. ONNX Runtime's routines pack the weights, except 4-bit blocks without zero
points (`blocks`).
Columns are packed independently and stored one after the other, so a slice of columns is a
contiguous range of each input of the operator.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxruntime.capi import _pybind_state

from omni_quantize import blocks
from omni_quantize.moments import Moments
from omni_quantize.operators import MICROSOFT, forwarded, function
from omni_quantize.recipe import Rule
from omni_quantize.weight_stream import (
    Columns,
    Layout,
    Parts,
    Piece,
    SliceCallback,
    WeightStream,
    columns_of,
    contiguous,
    register,
    slices,
)
from omni_runtime.arrays import FloatArray

_NATIVE: Any = _pybind_state  # C++ routines without annotations
PACK: dict[int, Callable[..., object]] = {
    4: _NATIVE.quantize_matmul_4bits,
    8: _NATIVE.quantize_matmul_8bits,
}

Measure = Callable[[str], Moments]
"""Returns the second moments of the inputs of a weight. Called when the weight is quantized."""

BLOCK_MATMUL, TABLE_MATMUL = "BlockMatMul", "TableMatMul"
COLUMNS_IN_ORDER = 1024
"""Columns whose rows are rounded one after the other: fewer would be slower."""
KERNEL_STEP = 64
"""The kernel needs weights with a multiple of this number of rows."""


def rewrite(
    model: ir.Model, rules: dict[str, Rule], measure: Measure | None = None
) -> list[WeightStream]:
    """Replace the MatMul of each weight with an "nbits" rule by MatMulNBits.

    `measure` is asked for weights whose blocks are searched. Return one weight stream per weight,
    which reads nothing before its pieces are requested.
    """
    made: list[WeightStream] = []
    for node in list(model.graph):
        if node.op_type != "MatMul" or node.domain:
            continue
        weight = node.inputs[1]
        if weight is None or weight.name not in rules or rules[weight.name].method != "nbits":
            continue
        assert weight.const_value is not None
        inner, outer = weight.const_value.shape.numpy()
        columns = columns_of(weight.const_value)
        matrix = BlockMatrix(weight.name, inner, outer, rules[weight.name], columns, measure)
        made.append(replace_product(model, node, weight, matrix))
    return made


def replace_product(
    model: ir.Model, node: ir.Node, weight: ir.Value, matrix: "BlockMatrix"
) -> WeightStream:
    """Replace the MatMul `node` by the operator that multiplies `matrix`, and return `matrix`."""
    graph = model.graph
    assert weight.name is not None
    parts = register(graph, weight.name, matrix.layout(matrix.outer), matrix)
    inputs, given = [node.inputs[0], *parts], attributes(matrix.inner, matrix.outer, matrix.rule)
    name, domain = "MatMulNBits", MICROSOFT
    if matrix.has_kernel:
        made = table_matmul() if matrix.levels else block_matmul()
        model.functions.setdefault(made.identifier(), made)
        name, domain = made.name, made.domain
        inputs += [_levels(graph, matrix.levels)] if matrix.levels else []
        for one in given.keys() - made.attributes.keys():
            del given[one]
    product = ir.node(name, inputs=inputs, attributes=given, domain=domain, name=node.name)
    product.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], [product], node.outputs, product.outputs
    )
    del graph.initializers[weight.name]
    return matrix


def _levels(graph: ir.Graph, levels: tuple[int, ...]) -> ir.Value:
    """Return the constant of these levels, which all matrices of the graph share."""
    name = f"levels {' '.join(map(str, levels))}"
    for node in graph:
        if node.op_type != "Constant":
            break  # constants of levels are the first nodes
        if node.outputs[0].name == name:
            return node.outputs[0]
    constant = ir.node("Constant", [], {"value": ir.tensor(np.array(levels, np.int8), name=name)})
    value = constant.outputs[0]
    value.name, value.shape = name, ir.Shape([len(levels)])
    value.type = ir.TensorType(ir.DataType.INT8)
    graph.insert_before(graph[0], constant)
    return value


@functools.cache
def block_matmul() -> ir.Function:
    """BlockMatMul as an ONNX function, which runs where there is no native kernel.

    Inputs: rows float32 (..., K), quantized to int8 in blocks; packed uint8 and scales float16 as
    in `BlockMatrix.layout`, without zero points. Output: float32 (..., N).
    """
    names = ("K", "N", "bits", "block_size")
    inputs = [ir.Value(name=name) for name in ("rows", "packed", "scales")]
    cast = ir.node("Cast", inputs[2:], {"to": ir.DataType.FLOAT})  # folded when the graph is loaded
    cast.outputs[0].name = "float_scales"
    level = ir.AttrInt64("accuracy_level", 4)
    product = ir.Node(
        MICROSOFT, "MatMulNBits", [*inputs[:2], *cast.outputs], [*forwarded(*names), level]
    )
    product.outputs[0].name = "product"
    return function(BLOCK_MATMUL, inputs, [cast, product], names)


@functools.cache
def table_matmul() -> ir.Function:
    """TableMatMul as an ONNX function, which runs where there is no native kernel.

    Inputs: as of BlockMatMul with 4 bits, and levels int8 (16,): what an index stands for. Output:
    float32 (..., N). The function looks the levels up, and multiplies in 8 bits. ONNX Runtime folds
    that when the graph is loaded, so memory holds 8 bits per weight.
    """
    names = ("K", "N", "block_size")
    inputs = [ir.Value(name=name) for name in ("rows", "packed", "scales", "levels")]
    _, packed, scales, levels = inputs
    nodes: list[ir.Node] = []

    def add(kind: str, operands: Sequence[ir.Value], output: str, **given: Any) -> ir.Value:
        node = ir.node(kind, operands, given)
        node.outputs[0].name = output
        nodes.append(node)
        return node.outputs[0]

    def constant(name: str, data: Any) -> ir.Value:
        return add("Constant", [], name, value=ir.tensor(data, name=name))

    last = constant("last", np.array([-1]))
    low = add("BitwiseAnd", [packed, constant("nibble", np.uint8(15))], "low")
    high = add("BitShift", [packed, constant("four", np.uint8(4))], "high", direction="RIGHT")
    pairs = [
        add("Unsqueeze", [half, last], f"{name}_column")
        for name, half in (("low", low), ("high", high))
    ]
    joined = add("Concat", pairs, "pairs", axis=-1)
    whole = constant("whole", np.array([0, 0, -1]))
    flat = add("Reshape", [joined, whole], "nibbles")
    indices = add("Cast", [flat], "indices", to=ir.DataType.INT32)
    wide = add("Cast", [levels], "wide_levels", to=ir.DataType.INT32)
    above = add("Add", [wide, constant("zero_point", np.int32(128))], "levels_above_zero")
    table = add("Cast", [above], "table", to=ir.DataType.UINT8)
    weights = add("Gather", [table, indices], "weights")
    floats = add("Cast", [scales], "float_scales", to=ir.DataType.FLOAT)
    given = [ir.AttrInt64("bits", 8), ir.AttrInt64("accuracy_level", 4)]
    product = ir.Node(
        MICROSOFT, "MatMulNBits", [inputs[0], weights, floats], [*forwarded(*names), *given]
    )
    product.outputs[0].name = "product"
    return function(TABLE_MATMUL, inputs, [*nodes, product], names)


def attributes(inner: int, outer: int, rule: Rule) -> dict[str, int]:
    """Return the attributes of the operator for a weight (inner, outer)."""
    return {
        "K": inner,
        "N": outer,
        "bits": rule.bits,
        "block_size": rule.block,
        "accuracy_level": rule.accuracy_level,
    }


def searched(rule: Rule) -> bool:
    """Whether the blocks of a rule are searched for, which can use the moments of inputs."""
    return rule.method == "nbits" and rule.bits == 4 and rule.symmetric


@dataclass(frozen=True)
class BlockMatrix:
    """One weight (inner, outer) and its quantization rule."""

    weight: str
    inner: int
    outer: int
    rule: Rule
    columns: Columns
    measure: Measure | None = None

    @property
    def values(self) -> int:
        return self.inner * self.outer

    @property
    def has_kernel(self) -> bool:
        """Whether the native kernel supports this weight."""
        rule = self.rule
        whole = self.inner % max(rule.block, KERNEL_STEP) == 0 and rule.block >= 32
        return whole and rule.symmetric and rule.accuracy_level == 4

    @property
    def levels(self) -> tuple[int, ...]:
        """The levels of the rule; none, which is uniform, for shapes that no kernel supports."""
        return self.rule.levels if self.has_kernel else ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.weight + spec.part for spec in self.layout(self.outer).values())

    def layout(self, outer: int) -> dict[str, Layout]:
        """Return the layout of packed weight, scales and zero points for `outer` columns."""
        blocks = -(-self.inner // self.rule.block)
        bits = self.rule.bits
        packed = (outer, blocks, self.rule.block * bits // 8)
        scales = ir.DataType.FLOAT16 if self.has_kernel else ir.DataType.FLOAT
        layout = {
            "packed": Layout(".packed", ir.DataType.UINT8, packed),
            "scales": Layout(".scales", scales, (outer, blocks)),
        }
        if not self.rule.symmetric:
            zeros = (outer, -(-blocks * bits // 8))
            layout["zero_points"] = Layout(".zero_points", ir.DataType.UINT8, zeros)
        return layout

    def pieces(self, on_slice: SliceCallback | None = None) -> Iterator[Piece]:
        written = dict.fromkeys(self.layout(0), 0)
        measure = self.measure if searched(self.rule) else None
        moments = measure(self.weight) if measure else None
        for start, stop in slices(self.inner, self.outer, COLUMNS_IN_ORDER if moments else 1):
            values = self.columns(start, stop)
            parts = self.quantize(values, moments)
            if on_slice is not None:
                on_slice(values, parts)
            for part, data in parts.items():
                yield Piece(f"{self.weight}.{part}", written[part], data)
                written[part] += data.nbytes

    def quantize(self, values: FloatArray, moments: Moments | None = None) -> Parts:
        """Quantize some columns, float32 (inner, columns): the inputs of the operator."""
        if searched(self.rule):
            levels = self.levels or blocks.UNIFORM
            parts = blocks.quantize(values, self.rule.block, levels, moments)
        else:
            parts = self._packed(values)
        parts["scales"] = parts["scales"].astype(self.layout(0)["scales"].dtype.numpy())
        return parts

    def _packed(self, values: FloatArray) -> Parts:
        """Pack with ONNX Runtime's routine."""
        outer = values.shape[1]
        parts: Parts = {
            name: np.zeros(spec.shape, np.float32 if name == "scales" else np.uint8)
            for name, spec in self.layout(outer).items()
        }
        zeros = parts.get("zero_points")
        if zeros is None:  # the routine always writes them
            blocks = -(-self.inner // self.rule.block)
            zeros = np.zeros((outer, -(-blocks * self.rule.bits // 8)), np.uint8)
        PACK[self.rule.bits](
            parts["packed"],
            contiguous(values),
            parts["scales"].reshape(-1),
            zeros.reshape(-1),
            self.rule.block,
            outer,
            self.inner,
            self.rule.symmetric,
        )
        return parts
