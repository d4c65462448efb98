"""Dynamic quantization: int8 weights, and activations that are quantized at run time.

A product becomes an IntegerMatMul, an ONNX function for which the runtime may have a faster kernel.
The nodes of the function and the quantized values are those of optimum's ORTQuantizer, which loads
a complete graph; this module works on slices. A test compares all initializers of both.
"""

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx_ir as ir

from omni_quantize.operators import function
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
from omni_runtime.errors import UsageError

INTEGER_MATMUL = "IntegerMatMul"
BIASED = "BiasedIntegerMatMul"
TARGETS = ("native", "avx2", "avx512_vnni", "arm64")


def resolve_target(name: str) -> str:
    """Return the CPU family of this machine for "native", else the name itself.

    Raises UsageError for an unknown name.
    """
    if name not in TARGETS:
        raise UsageError(f"there is no target {name!r}", fix=f"choose one of {', '.join(TARGETS)}")
    if name != "native":
        return name
    if platform.machine().lower() in ("arm64", "aarch64"):
        return "arm64"
    import torch  # noqa: PLC0415 - slow to import

    return "avx512_vnni" if torch.cpu.get_capabilities().get("avx512_vnni") else "avx2"


def largest_integer(target: str) -> int:
    """Return the largest magnitude of an int8 weight for a CPU family.

    AVX2 adds two products of unsigned and signed bytes in 16 bits with saturation; 2 x 255 x 64
    fits. Measured with AVX2: these 7 bits have an error of 2.0 % instead of 1.3 %; unsigned 8-bit
    weights, which do not saturate, take 1.3 to 2 times as long.
    """
    return 64 if target == "avx2" else 127


def rewrite(model: ir.Model, rules: dict[str, Rule], target: str) -> list[WeightStream]:
    """Replace the MatMul of each weight with a "dynamic" rule by IntegerMatMul.

    `target` is one of TARGETS except "native". Return one weight stream per weight, which reads
    nothing before its pieces are requested. Raises UsageError if the rules of one graph differ in
    `per_channel`.
    """
    chosen = {name: rule for name, rule in rules.items() if rule.method == "dynamic"}
    if len({rule.per_channel for rule in chosen.values()}) > 1:
        raise UsageError(
            "dynamic rules of one graph differ in per_channel", fix="give them the same value"
        )
    made: list[WeightStream] = []
    for node in list(model.graph):
        weight = node.inputs[1] if node.op_type == "MatMul" and not node.domain else None
        if weight is None or weight.name not in chosen:
            continue
        assert weight.const_value is not None and weight.name is not None
        inner, outer = weight.const_value.shape.numpy()
        matrix = IntegerMatrix(
            weight.name,
            inner,
            outer,
            largest_integer(target),
            chosen[weight.name].per_channel,
            columns_of(weight.const_value),
        )
        parts = register(model.graph, weight.name, matrix.layout(outer), matrix)
        _replace(model, node, parts)
        del model.graph.initializers[weight.name]
        made.append(matrix)
    return made


def _replace(model: ir.Model, node: ir.Node, parts: list[ir.Value]) -> None:
    """Replace a MatMul, and the Add of its bias if there is one, by one node."""
    old, inputs = [node], [node.inputs[0], *parts]
    bias = _bias(node)
    if bias is not None:
        old.append(bias[0])
        inputs.append(bias[1])
    made = integer_matmul(biased=bias is not None)
    product = ir.node(made.name, inputs, domain=DOMAIN, name=node.name)
    product.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    ir.convenience.replace_nodes_and_values(
        model.graph, old[-1], old, [product], old[-1].outputs, product.outputs
    )
    model.functions.setdefault(made.identifier(), made)


def _bias(node: ir.Node) -> tuple[ir.Node, ir.Value] | None:
    """Return the Add of a bias and the bias, if it is the only consumer of the MatMul."""
    (product,) = node.outputs
    users = list(product.uses())
    add = users[0].node if len(users) == 1 and not product.is_graph_output() else None
    if add is None or add.op_type != "Add" or add.domain:
        return None
    (other,) = (value for value in add.inputs if value is not product)
    weight = node.inputs[1]
    assert other is not None and weight is not None and weight.shape is not None
    constant = other.is_initializer() and other.shape == weight.shape[1:]
    return (add, other) if constant else None


@cache
def integer_matmul(biased: bool = False) -> ir.Function:
    """IntegerMatMul as an ONNX function, which runs where there is no native kernel.

    Inputs: rows float32 (..., K); integers, scales and zero points (all zero) as in
    `IntegerMatrix.layout`; if `biased`, a bias float32 (N). Output: float32 (..., N).

    ONNX Runtime fuses these nodes, and quantizes rows once for all products that share them. The
    kernel differs from this function by more than rounding: it quantizes each block of 64 values
    with its own scale to 91 levels, the function quantizes all rows with one scale to 256. On
    normal rows they differ by 1.8 %, and each has an error of about 2 %. With outliers the error
    of the kernel stays below 3 %, that of the function does not (see native/integer_matmul.h).
    """
    names = ("rows", "quantized", "scale", "zero_point", *(("bias",) if biased else ()))
    inputs = [ir.Value(name=name) for name in names]
    nodes: list[ir.Node] = []

    def add(operator: str, *from_: ir.Value, names: Sequence[str]) -> Sequence[ir.Value]:
        to = {"to": ir.DataType.FLOAT} if operator == "Cast" else {}
        nodes.append(ir.node(operator, from_, to, num_outputs=len(names)))
        for value, name in zip(nodes[-1].outputs, names, strict=True):
            value.name = name
        return nodes[-1].outputs

    rows, quantized, scale, zero, *bias = inputs
    integers, row_scale, row_zero = add(
        "DynamicQuantizeLinear", rows, names=("integers", "row_scale", "row_zero")
    )
    (sums,) = add("MatMulInteger", integers, quantized, row_zero, zero, names=["sums"])
    (floats,) = add("Cast", sums, names=["floats"])
    (scales,) = add("Mul", row_scale, scale, names=["scales"])
    (product,) = add("Mul", floats, scales, names=["product"])
    if biased:
        add("Add", product, *bias, names=["result"])
    return function(BIASED if biased else INTEGER_MATMUL, inputs, nodes, ())


@dataclass(frozen=True)
class IntegerMatrix:
    """One weight (inner, outer), with one scale per column or one for all columns.

    Its integers range from -`steps` to `steps`.
    """

    weight: str
    inner: int
    outer: int
    steps: int
    per_channel: bool
    columns: Columns

    @property
    def values(self) -> int:
        return self.inner * self.outer

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.weight + spec.part for spec in self.layout(self.outer).values())

    def layout(self, outer: int) -> dict[str, Layout]:
        """Return the layout of integers, scales and zero points for `outer` columns."""
        shape = (outer,) if self.per_channel else ()
        return {
            "quantized": Layout("_quantized", ir.DataType.INT8, (self.inner, outer)),
            "scale": Layout("_scale", ir.DataType.FLOAT, shape),
            "zero_point": Layout("_zero_point", ir.DataType.INT8, shape),
        }

    def pieces(self, on_slice: SliceCallback | None = None) -> Iterator[Piece]:
        """Yield the initializers complete, since the integers are stored row by row."""
        arrays: Parts = {
            name: np.empty(spec.shape, spec.dtype.numpy())
            for name, spec in self.layout(self.outer).items()
        }
        largest = None if self.per_channel else self._largest()
        for start, stop in slices(self.inner, self.outer):
            values = contiguous(self.columns(start, stop))
            parts = self.quantize(values, largest)
            if on_slice is not None:
                on_slice(values, parts)
            for name, data in parts.items():
                if data.ndim:
                    arrays[name][..., start:stop] = data
                else:
                    arrays[name][...] = data
        for name, data in arrays.items():
            yield Piece(f"{self.weight}_{name}", 0, data)

    def _largest(self) -> FloatArray:
        found = [np.abs(self.columns(*some)).max() for some in slices(self.inner, self.outer)]
        return np.array(max(found), np.float32)

    def quantize(self, values: FloatArray, largest: FloatArray | None = None) -> Parts:
        """Quantize some columns, float32 (inner, columns): integers, scales and zero points.

        `largest` is the largest magnitude, float32 (), if all columns share one scale.
        """
        absmax: FloatArray = np.abs(values).max(axis=0) if largest is None else largest
        exact = absmax.astype(np.float64) / self.steps
        blank = exact < np.finfo(np.float32).tiny
        scale = np.where(blank, 1, exact).astype(np.float32)
        quantized = np.rint(values / scale)
        np.clip(quantized, -self.steps, self.steps, out=quantized)
        return {
            "quantized": quantized.astype(np.int8),
            "scale": scale,
            "zero_point": np.zeros(scale.shape, np.int8),
        }
