"""Weight-only quantization in blocks: MatMul becomes MatMulNBits.

It is named BlockMatMul, a function of our own domain, where the runtime may have a faster kernel.
ORT's own routines pack, except 4-bit blocks without zero points, whose scales are searched here.
Each column of a matrix is packed by itself, and the packed form lies column after column; so a
slice of columns becomes a stretch of each of the operator's inputs.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxruntime.capi import _pybind_state

from omni_quantize.operators import MICROSOFT, function, passed
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
from omni_runtime.bundle.contracts import DOMAIN

_NATIVE: Any = _pybind_state  # its routines are made in C++ and have no annotations
PACK: dict[int, Callable[..., object]] = {
    4: _NATIVE.quantize_matmul_4bits,
    8: _NATIVE.quantize_matmul_8bits,
}

NARROW = 8
"""Values of a block up to which halving it is faster than going through its columns."""

BLOCK_MATMUL = "BlockMatMul"
KERNEL_STEP = 64
"""Rows of a weight that the kernel takes at once: it has no rest."""

SHARES = (1.0, 0.9)
"""Of the largest weight of a block: where the search for its scale begins."""


def rewrite(model: ir.Model, rules: dict[str, Rule]) -> list[WeightStream]:
    """Replace the MatMul of each weight with an "nbits" rule by MatMulNBits.

    Returns one weight_stream for each weight; nothing is read before its pieces are asked for.
    """
    made: list[WeightStream] = []
    for node in list(model.graph):
        if node.op_type != "MatMul" or node.domain:
            continue
        weight = node.inputs[1]
        if weight is None or weight.name not in rules or rules[weight.name].method != "nbits":
            continue
        made.append(_replace(model, node, weight, rules[weight.name]))
    return made


def _replace(model: ir.Model, node: ir.Node, weight: ir.Value, rule: Rule) -> WeightStream:
    graph = model.graph
    assert weight.const_value is not None and weight.name is not None
    inner, outer = weight.const_value.shape.numpy()
    matrix = BlockMatrix(weight.name, inner, outer, rule, columns_of(weight.const_value))
    parts = register(graph, weight.name, matrix.layout(outer), matrix)
    given = attributes(inner, outer, rule)
    ours = matrix.has_kernel
    if ours:
        del given["accuracy_level"]
        model.functions.setdefault(block_matmul().identifier(), block_matmul())
    product = ir.node(
        BLOCK_MATMUL if ours else "MatMulNBits",
        inputs=[node.inputs[0], *parts],
        attributes=given,
        domain=DOMAIN if ours else MICROSOFT,
        name=node.name,
    )
    product.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], [product], node.outputs, product.outputs
    )
    del graph.initializers[weight.name]
    return matrix


@functools.cache
def block_matmul() -> ir.Function:
    """BlockMatMul as ONNX Runtime computes it where there is no kernel of ours.

    rows float32 (..., K); packed uint8 and scales float16 as `BlockMatrix.layout` says, without
    zero points; rows are rounded to int8 in blocks. Returns float32 (..., N).
    """
    names = ("K", "N", "bits", "block_size")
    inputs = [ir.Value(name=name) for name in ("rows", "packed", "scales")]
    cast = ir.node("Cast", inputs[2:], {"to": ir.DataType.FLOAT})  # folded when it is loaded
    cast.outputs[0].name = "float_scales"
    level = ir.AttrInt64("accuracy_level", 4)
    product = ir.Node(
        MICROSOFT, "MatMulNBits", [*inputs[:2], *cast.outputs], [*passed(*names), level]
    )
    product.outputs[0].name = "product"
    return function(BLOCK_MATMUL, inputs, [cast, product], names)


def attributes(inner: int, outer: int, rule: Rule) -> dict[str, int]:
    """The operator's attributes for a weight (inner, outer)."""
    return {
        "K": inner,
        "N": outer,
        "bits": rule.bits,
        "block_size": rule.block,
        "accuracy_level": rule.accuracy_level,
    }


@dataclass(frozen=True)
class BlockMatrix:
    """One weight (inner, outer) and the rule that packs it."""

    weight: str
    inner: int
    outer: int
    rule: Rule
    columns: Columns

    @property
    def values(self) -> int:
        return self.inner * self.outer

    @property
    def has_kernel(self) -> bool:
        """Whether it is of the form that our own kernel multiplies with."""
        rule = self.rule
        whole = self.inner % max(rule.block, KERNEL_STEP) == 0 and rule.block >= 32
        return whole and rule.symmetric and rule.accuracy_level == 4

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.weight + spec.part for spec in self.layout(self.outer).values())

    def layout(self, outer: int) -> dict[str, Layout]:
        """The operator's inputs for `outer` columns: packed weight, scales, zero points."""
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
        for start, stop in slices(self.inner, self.outer):
            values = self.columns(start, stop)
            parts = self.quantize(values)
            if on_slice is not None:
                on_slice(values, parts)
            for part, data in parts.items():
                yield Piece(f"{self.weight}.{part}", written[part], data)
                written[part] += data.nbytes

    def quantize(self, values: FloatArray) -> Parts:
        """The operator's inputs for some columns, float32 (inner, columns)."""
        searched = self.rule.symmetric and self.rule.bits == 4
        parts = symmetric_blocks(values, self.rule.block) if searched else self._packed(values)
        parts["scales"] = parts["scales"].astype(self.layout(0)["scales"].dtype.numpy())
        return parts

    def _packed(self, values: FloatArray) -> Parts:
        """By ORT's own routine."""
        outer = values.shape[1]
        parts: Parts = {
            name: np.zeros(spec.shape, np.float32 if name == "scales" else np.uint8)
            for name, spec in self.layout(outer).items()
        }
        zeros = parts.get("zero_points")
        if zeros is None:  # the routine wants a place for them either way
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


def symmetric_blocks(values: FloatArray, size: int) -> Parts:
    """4-bit blocks of (inner, columns), with the scales of the least squared error.

    The scale that makes the largest weight -8 is only a beginning: the best one for the integers
    that it leads to is <w, q> / <q, q>. On trained weights the error is that of blocks with zero
    points (8.2 % against 8.1 %, plain rounding 8.6 %), and the product without them is faster.
    """
    inner, columns = values.shape
    rows = np.pad(np.ascontiguousarray(values.T), ((0, 0), (0, -inner % size)))
    blocks = rows.reshape(columns, -1, size)
    high, low = _reduce(np.maximum, blocks), _reduce(np.minimum, blocks)
    largest = np.where(high > -low, high, low)
    best = np.zeros(blocks.shape, np.float32)
    scales = np.zeros(largest.shape, np.float32)
    least = np.full(largest.shape, np.inf, np.float32)
    for share in SHARES:
        scale = _fitted(blocks, _nearest(blocks, largest * np.float32(-share / 8)))
        integers = _nearest(blocks, scale)
        difference = integers * scale[..., None] - blocks
        error = _sums(difference, difference)
        better = error < least
        np.copyto(best, integers, where=better[..., None])
        np.copyto(scales, scale, where=better)
        np.copyto(least, error, where=better)
    nibbles = (best + 8).astype(np.uint8)
    packed = nibbles[..., ::2] | nibbles[..., 1::2] << 4
    return {"packed": packed, "scales": scales}


def _nearest(blocks: FloatArray, scale: FloatArray) -> FloatArray:
    """Integers from -8 to 7, as floats."""
    integers = np.divide(blocks, np.where(scale == 0, np.float32(1), scale)[..., None])
    np.rint(integers, out=integers)
    return np.clip(integers, -8, 7, out=integers)


def _fitted(blocks: FloatArray, integers: FloatArray) -> FloatArray:
    """The scale of each block with the least squared error for these integers."""
    return np.divide(_sums(blocks, integers), np.maximum(_sums(integers, integers), 1))


def _sums(a: FloatArray, b: FloatArray) -> FloatArray:
    """Sums of products over each block."""
    found: FloatArray = np.einsum("cbs,cbs->cb", a, b)
    return found


def _reduce(operator: np.ufunc, blocks: FloatArray) -> FloatArray:
    """Largest or least value of each block: numpy's own `reduce` is slow over so short an axis."""
    while (half := blocks.shape[-1] // 2) >= NARROW:
        blocks = operator(blocks[..., :half], blocks[..., half:])
    return functools.reduce(operator, np.moveaxis(blocks, -1, 0))
