"""INT8 convolutions: int8 weights, and uint8 activations whose ranges are known beforehand.

A convolution becomes Mul, QuantizeLinear, QLinearConv and DequantizeLinear. The Mul brings the
channels closer to each other, by the square root of how far each reaches, and the weights take it
back (SmoothQuant): QLinearConv has one scale for all channels. Even where that could be undone,
ONNX Runtime's QuantizeLinear with a scale for each makes the whole 1.4 to 3 times slower.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from omni_quantize.dynamic import largest_integer
from omni_quantize.recipe import Rule
from omni_quantize.weight_stream import Layout, Piece, SliceCallback, WeightStream, register
from omni_runtime.arrays import FloatArray

Ranges = Mapping[str, tuple[FloatArray, FloatArray]]
"""Least and largest value of each channel of a tensor, float32 (channels,) each, by its name."""

LEAST_CHANNELS = 24
"""Narrower convolutions had better stay in float32: int8 saves a fifth of the time here, and less
below."""

ONE = np.float32(1)


def wide(weight: ir.Value) -> bool:
    """Whether int8 makes the convolution with this weight (outputs, inputs, kernel) faster."""
    assert weight.shape is not None
    return min(weight.shape.numpy()[:2]) >= LEAST_CHANNELS


def rewrite(
    model: ir.Model, rules: Mapping[str, Rule], ranges: Ranges, target: str
) -> list[WeightStream]:
    """Replace each convolution whose weight has a "static" rule by integer products.

    `ranges` must have the input and the output of each; `target` is one of TARGETS but "native".
    Returns one weight_stream for each; nothing is read before its pieces are asked for.
    """
    made: list[WeightStream] = []
    quantized: dict[str, tuple[FloatArray, list[ir.Value]]] = {}
    for node in list(model.graph):
        weight = node.inputs[1] if node.op_type == "Conv" else None
        rule = rules.get(weight.name or "") if weight is not None else None
        if rule is None or rule.method != "static":
            continue
        made.append(_replace(model.graph, node, ranges, largest_integer(target), quantized))
    return made


def _replace(
    graph: ir.Graph,
    node: ir.Node,
    ranges: Ranges,
    steps: int,
    quantized: dict[str, tuple[FloatArray, list[ir.Value]]],
) -> WeightStream:
    """Equal inputs are quantized once: `quantized` has their scales, values and zero points."""
    source, weight, bias = node.inputs[0], node.inputs[1], [*node.inputs, None][2]
    result = node.outputs[0]
    assert source is not None and source.name is not None and result.name is not None
    assert weight is not None and weight.name is not None and node.name is not None
    new: list[ir.Node] = []

    def add(
        operator: str, *inputs: ir.Value, **attributes: ir.Attr | ir.TensorProtocol
    ) -> ir.Value:
        name = f"{node.name}_{len(new)}_{operator}"
        new.append(ir.node(operator, inputs, attributes=attributes, name=name))
        new[-1].outputs[0].name = f"{name}_0"
        return new[-1].outputs[0]

    def constant(data: npt.ArrayLike) -> ir.Value:
        return add("Constant", value=ir.tensor(np.asarray(data)))

    one = constant(ONE)
    if source.name not in quantized:
        scales, zero = input_steps(*ranges[source.name])
        nearer = add("Mul", source, constant((1 / scales)[:, None]))
        values = add("QuantizeLinear", nearer, one, zero_point := constant(zero))
        quantized[source.name] = scales, [values, zero_point]
    scales, (values, input_zero) = quantized[source.name]
    low, high = ranges[result.name]
    step, zero = _steps(low.min(), high.max())
    output = constant(step), constant(zero)
    convolution = IntegerConvolution(weight, bias, scales, steps)
    parts = register(graph, weight.name, convolution.layout(), convolution)
    product = add(
        "QLinearConv", values, one, input_zero, *parts[:3], *output, parts[3], **node.attributes
    )
    add("DequantizeLinear", product, *output)
    ir.convenience.replace_nodes_and_values(graph, node, [node], new, node.outputs, new[-1].outputs)
    for value in (weight, bias):
        if value is not None and value.name is not None:
            del graph.initializers[value.name]
    return convolution


def input_steps(low: FloatArray, high: FloatArray) -> tuple[FloatArray, np.uint8]:
    """What one integer step stands for in each channel, float32 (channels,), and the zero point.

    The least and the largest integer belong to the channels that reach farthest of all.
    """
    reach = np.maximum(np.maximum(high, -low), np.finfo(np.float32).tiny)
    # A channel that was silent meanwhile may not stay so: none gets too fine a step.
    nearer = np.sqrt(np.maximum(reach, reach.max() / 255))
    step, zero = _steps((low / nearer).min(), (high / nearer).max())
    return nearer * step, zero


def _steps(low: np.floating, high: np.floating) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of uint8 for a range, widened to contain 0."""
    least, largest = min(float(low), 0.0), max(float(high), 0.0)
    step = np.float32((largest - least) / 255) or ONE
    return step, np.uint8(np.clip(np.rint(-least / step), 0, 255))


@dataclass(frozen=True)
class IntegerConvolution:
    """One convolution (outputs, inputs, kernel) for integers of which `scales` says the steps.

    Its own integers reach from -`steps` to `steps`, with one scale for each output.
    """

    value: ir.Value
    bias: ir.Value | None
    scales: FloatArray
    steps: int

    @property
    def weight(self) -> str:
        assert self.value.name is not None
        return self.value.name

    @property
    def values(self) -> int:
        return sum(tensor.size for tensor in self._tensors)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.weight + spec.part for spec in self.layout().values())

    @property
    def _tensors(self) -> list[ir.TensorProtocol]:
        found = [value.const_value for value in (self.value, self.bias) if value is not None]
        return [tensor for tensor in found if tensor is not None]

    def layout(self) -> dict[str, Layout]:
        """The operator's inputs: integers, their scales and zero points, and the bias."""
        shape = tuple(self._tensors[0].shape.numpy())
        outputs = shape[:1]
        return {
            "quantized": Layout("_quantized", ir.DataType.INT8, shape),
            "scale": Layout("_scale", ir.DataType.FLOAT, outputs),
            "zero_point": Layout("_zero_point", ir.DataType.INT8, outputs),
            "bias": Layout("_bias", ir.DataType.INT32, outputs),
        }

    def pieces(self, on_slice: SliceCallback | None = None) -> Iterator[Piece]:
        """Four pieces; no convolution is large. `on_slice` is not called: it is for matrices."""
        del on_slice
        weight, *bias = [tensor.numpy().astype(np.float64) for tensor in self._tensors]
        weight *= self.scales[:, None]
        exact = np.abs(weight).max(axis=(1, 2)) / self.steps
        scale = np.where(exact < np.finfo(np.float32).tiny, 1, exact).astype(np.float32)
        integers = np.rint(weight / scale[:, None, None]).clip(-self.steps, self.steps)
        offset = np.rint(bias[0] / scale) if bias else np.zeros(len(scale))
        limits = np.iinfo(np.int32)
        for name, data in (
            ("quantized", integers.astype(np.int8)),
            ("scale", scale),
            ("zero_point", np.zeros(len(scale), np.int8)),
            ("bias", offset.clip(limits.min, limits.max).astype(np.int32)),
        ):
            yield Piece(f"{self.weight}_{name}", 0, data)
