"""Static quantization of convolutions: int8 weights, and uint8 activations of calibrated ranges.

A convolution becomes Mul, QuantizeLinear, QLinearConv and DequantizeLinear. QLinearConv has one
scale for all input channels, so the Mul divides each channel by the square root of its maximum, and
the weights are multiplied by it (SmoothQuant). A QuantizeLinear with a scale per channel would make
the convolution 1.4 to 3 times slower.
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
"""Minimum and maximum of each channel, float32 (channels,) each, by the name of the tensor."""

MIN_CHANNELS = 24
"""Convolutions with fewer channels stay in float32; at 24, int8 saves a fifth of the time."""

ONE = np.float32(1)


def wide(weight: ir.Value) -> bool:
    """Return whether int8 makes a convolution (outputs, inputs, kernel) faster."""
    assert weight.shape is not None
    return min(weight.shape.numpy()[:2]) >= MIN_CHANNELS


def rewrite(
    model: ir.Model, rules: Mapping[str, Rule], ranges: Ranges, target: str
) -> list[WeightStream]:
    """Replace each convolution whose weight has a "static" rule by QLinearConv.

    `ranges` must have the input and output of each; `target` is one of TARGETS except "native".
    Return one weight stream per convolution, which reads nothing before its pieces are requested.
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
    """Replace one convolution. `quantized` caches inputs that several convolutions share."""
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
        smooth = add("Mul", source, constant((1 / scales)[:, None]))
        values = add("QuantizeLinear", smooth, one, zero_point := constant(zero))
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
    """Return the scale of each channel, float32 (channels,), and the common zero point.

    The smoothed channels with the largest range use all 256 levels.
    """
    absmax = np.maximum(np.maximum(high, -low), np.finfo(np.float32).tiny)
    # A channel that was silent during calibration must not get too small a scale.
    smooth = np.sqrt(np.maximum(absmax, absmax.max() / 255))
    step, zero = _steps((low / smooth).min(), (high / smooth).max())
    return smooth * step, zero


def _steps(low: np.floating, high: np.floating) -> tuple[np.float32, np.uint8]:
    """Return scale and zero point of uint8 for a range, extended to contain 0."""
    least, largest = min(float(low), 0.0), max(float(high), 0.0)
    step = np.float32((largest - least) / 255) or ONE
    return step, np.uint8(np.clip(np.rint(-least / step), 0, 255))


@dataclass(frozen=True)
class IntegerConvolution:
    """A weight (outputs, inputs, kernel) for quantized inputs with `scales`.

    Its integers range from -`steps` to `steps`, with one scale per output channel.
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
        """Return the layout of integers, scales, zero points and bias."""
        shape = tuple(self._tensors[0].shape.numpy())
        outputs = shape[:1]
        return {
            "quantized": Layout("_quantized", ir.DataType.INT8, shape),
            "scale": Layout("_scale", ir.DataType.FLOAT, outputs),
            "zero_point": Layout("_zero_point", ir.DataType.INT8, outputs),
            "bias": Layout("_bias", ir.DataType.INT32, outputs),
        }

    def pieces(self, on_slice: SliceCallback | None = None) -> Iterator[Piece]:
        """Yield the four initializers, which are small. `on_slice` is only called for matrices."""
        del on_slice
        weight, *bias = [tensor.numpy().astype(np.float64) for tensor in self._tensors]
        weight *= self.scales[:, None]
        exact = np.abs(weight).max(axis=(1, 2)) / self.steps
        if bias:  # of a channel of tiny weights it must fit into int32
            exact = np.maximum(exact, np.abs(bias[0]) / 2**30)
        scale = np.where(exact < np.finfo(np.float32).tiny, 1, exact).astype(np.float32)
        integers = np.rint(weight / scale[:, None, None]).clip(-self.steps, self.steps)
        offset = np.rint(bias[0] / scale) if bias else np.zeros(len(scale))
        for name, data in (
            ("quantized", integers.astype(np.int8)),
            ("scale", scale),
            ("zero_point", np.zeros(len(scale), np.int8)),
            ("bias", offset.astype(np.int32)),
        ):
            yield Piece(f"{self.weight}_{name}", 0, data)
