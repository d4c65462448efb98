"""Weight-only quantization in blocks: MatMul becomes MatMulNBits, packed by ORT's own routines.

The rewrite itself reads nothing. A matrix is read, quantized and dropped when the first of its
parts is written; only its packed form is kept until the last part is.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnxruntime.capi import _pybind_state

from omni_quantize.recipe import Rule

Packed = npt.NDArray[Any]
_NATIVE: Any = _pybind_state  # its routines are made in C++ and have no annotations
PACK: dict[int, Callable[..., object]] = {
    4: _NATIVE.quantize_matmul_4bits,
    8: _NATIVE.quantize_matmul_8bits,
}


def rewrite(model: ir.Model, rules: dict[str, Rule]) -> None:
    """Replace the MatMul of each named weight by MatMulNBits as its rule says."""
    graph = model.graph
    for node in list(graph):
        if node.op_type != "MatMul" or node.domain:
            continue
        weight = node.inputs[1]
        if weight is None or weight.name not in rules or rules[weight.name].method != "nbits":
            continue
        _replace(graph, node, weight, rules[weight.name])


def _replace(graph: ir.Graph, node: ir.Node, weight: ir.Value, rule: Rule) -> None:
    assert weight.const_value is not None and weight.name is not None
    inner, outer = weight.const_value.shape.numpy()
    matrix = _Matrix(weight.const_value, inner, outer, rule)
    parts: list[ir.Value] = []
    for part, (dtype, shape) in matrix.layout().items():
        tensor = ir.LazyTensor(
            lambda part=part: ir.tensor(matrix.take(part)),
            dtype=dtype,
            shape=ir.Shape(shape),
            name=f"{weight.name}.{part}",
        )
        value = ir.Value(
            name=tensor.name, shape=tensor.shape, type=ir.TensorType(dtype), const_value=tensor
        )
        graph.register_initializer(value)
        parts.append(value)
    product = ir.node(
        "MatMulNBits",
        inputs=[node.inputs[0], *parts],
        attributes={
            "K": inner,
            "N": outer,
            "bits": rule.bits,
            "block_size": rule.block,
            "accuracy_level": rule.accuracy_level,
        },
        domain="com.microsoft",
        name=node.name,
    )
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], [product], node.outputs, product.outputs
    )
    del graph.initializers[weight.name]


class _Matrix:
    """One weight (inner, outer) and, once somebody asked, its quantized parts."""

    def __init__(self, weight: ir.TensorProtocol, inner: int, outer: int, rule: Rule) -> None:
        self._weight = weight
        self._inner = inner
        self._outer = outer
        self._rule = rule
        self._waiting: dict[str, Packed] = {}

    def layout(self) -> dict[str, tuple[ir.DataType, tuple[int, ...]]]:
        """Name, dtype and shape of the operator's inputs: packed weight, scales, zero points."""
        blocks = -(-self._inner // self._rule.block)
        bits = self._rule.bits
        layout = {
            "packed": (ir.DataType.UINT8, (self._outer, blocks, self._rule.block * bits // 8)),
            "scales": (ir.DataType.FLOAT, (self._outer, blocks)),
        }
        if not self._rule.symmetric:
            zeros = -(-blocks * bits // 8)
            layout["zero_points"] = (ir.DataType.UINT8, (self._outer, zeros))
        return layout

    def take(self, part: str) -> Packed:
        if part not in self._waiting:
            self._waiting = self._quantize()
        return self._waiting.pop(part)

    def _quantize(self) -> dict[str, Packed]:
        parts: dict[str, Packed] = {
            name: np.zeros(shape, dtype.numpy()) for name, (dtype, shape) in self.layout().items()
        }
        zeros = parts.get("zero_points")
        if zeros is None:  # the routine wants a place for them either way
            blocks = -(-self._inner // self._rule.block)
            zeros = np.zeros((self._outer, -(-blocks * self._rule.bits // 8)), np.uint8)
        PACK[self._rule.bits](
            parts["packed"],
            np.ascontiguousarray(self._weight.numpy()),
            parts["scales"].reshape(-1),
            zeros.reshape(-1),
            self._rule.block,
            self._outer,
            self._inner,
            self._rule.symmetric,
        )
        return parts
