"""Layers that all graphs share, and weights that refer to tensors of the checkpoint.

A `Weight` names its sources and holds no data, so building a graph reads no tensors. When the file
is saved, the tensors are read, reshaped and written one at a time.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.nn import Module, ModuleList, Parameter

from omni_quantize.operators import MICROSOFT
from omni_quantize.weight_stream import contiguous
from omni_runtime.arrays import FloatArray

Op = Any
"""An onnxscript OpBuilder: each attribute is an ONNX operator."""
Value = Any
"""A symbolic tensor of the graph under construction."""

Rows = Callable[[int, int], FloatArray]
"""Reads rows start .. stop of a checkpoint tensor."""


class Weight(Parameter):
    """A parameter, and the checkpoint tensors that it is built from.

    `shapes` are the expected shapes of the sources. `siblings` names the sibling modules of the
    owner that have the sources (packed projections). Without `siblings` the source has the
    parameter's own name. `build` converts the sources, as float32, to the parameter.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        shapes: Sequence[tuple[int, ...]],
        build: Callable[[list[FloatArray]], FloatArray],
        siblings: Sequence[str] = (),
    ) -> None:
        super().__init__(list(shape))
        self.built_shape = tuple(shape)
        self.source_shapes = tuple(shapes)
        self.siblings = tuple(siblings)
        self.build = build

    def sources(self, path: str) -> list[str]:
        """Return the checkpoint names of the sources of the parameter `path`."""
        if not self.siblings:
            return [path]
        *parents, _, leaf = path.split(".")
        return [".".join([*parents, sibling, leaf]) for sibling in self.siblings]


class Matrix(Weight):
    """A weight (inputs, outputs) whose columns can be read separately.

    Each source is (width, inputs) or wider; only its first `inputs` columns are used.
    """

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        *,
        source_shape: tuple[int, ...] | None,
        siblings: Sequence[str],
    ) -> None:
        super().__init__(
            [inputs, sum(widths)],
            shapes=[source_shape or (width, inputs) for width in widths],
            siblings=siblings,
            build=lambda sources: contiguous(
                self.columns(
                    [lambda start, stop, source=source: source[start:stop] for source in sources],
                    0,
                    sum(widths),
                )
            ),
        )
        self.inputs = inputs
        self.widths = tuple(widths)

    def columns(self, sources: Sequence[Rows], start: int, stop: int) -> FloatArray:
        """Return columns start .. stop, float32 (inputs, stop - start), from the sources.

        The memory layout is column-major, as in the checkpoint.
        """
        parts: list[FloatArray] = []
        first = 0
        for rows, width in zip(sources, self.widths, strict=True):
            low, high = max(start - first, 0), min(stop - first, width)
            if low < high:
                parts.append(rows(low, high).reshape(high - low, -1)[:, : self.inputs])
            first += width
        packed = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return packed.T


def vector(size: int) -> Weight:
    """Return a one-dimensional weight that equals its source."""
    return Weight([size], shapes=[(size,)], build=lambda parts: parts[0])


def constant(data: FloatArray) -> Parameter:
    """Return a parameter that is not in the checkpoint."""
    return Parameter(list(data.shape), data=ir.tensor(data))


class Linear(Module):
    """y = x W + b. The weight is stored as (inputs, outputs), as MatMul expects."""

    def __init__(
        self,
        inputs: int,
        outputs: int | Mapping[str, int],
        *,
        bias: bool | Sequence[str] = True,
        source_shape: tuple[int, ...] | None = None,
    ) -> None:
        """`outputs` may map names of sibling modules to their widths: a packed projection.

        `bias` may name the siblings that have a bias; the others get zeros. `source_shape` is the
        shape in the checkpoint if it is not (outputs, inputs). Of a wider source, the first
        `inputs` columns are used.
        """
        super().__init__()
        parts = outputs if isinstance(outputs, Mapping) else {}
        widths = list(parts.values()) if isinstance(outputs, Mapping) else [outputs]
        self.weight = Matrix(inputs, widths, source_shape=source_shape, siblings=list(parts))
        self.bias = self._bias(parts, widths, bias) if bias else None

    @staticmethod
    def _bias(parts: Mapping[str, int], widths: list[int], bias: bool | Sequence[str]) -> Weight:
        present = list(parts) if isinstance(bias, bool) else list(bias)
        if not parts:
            return vector(widths[0])

        def build(sources: list[FloatArray]) -> FloatArray:
            found = dict(zip(present, sources, strict=True))
            return np.concatenate(
                [found.get(name, np.zeros(width, np.float32)) for name, width in parts.items()]
            )

        return Weight(
            [sum(widths)],
            shapes=[(parts[name],) for name in present],
            siblings=present,
            build=build,
        )

    def forward(self, op: Op, x: Value) -> Value:
        y = op.MatMul(x, self.weight)
        return y if self.bias is None else op.Add(y, self.bias)


class RMSNorm(Module):
    """x / sqrt(mean(x^2) + eps) * weight, over the last axis."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = vector(size)
        self.eps = eps

    def forward(self, op: Op, x: Value) -> Value:
        return op.RMSNormalization(x, self.weight, axis=-1, epsilon=self.eps)


class LayerNorm(Module):
    """Layer normalization with weight and bias over the last axis."""

    def __init__(self, size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = vector(size)
        self.bias = vector(size)
        self.eps = eps

    def forward(self, op: Op, x: Value) -> Value:
        return op.LayerNormalization(x, self.weight, self.bias, axis=-1, epsilon=self.eps)


class Conv1d(Module):
    """A convolution over time with zero padding on both sides."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        shape = (outputs, inputs, kernel)
        self.weight = Weight(shape, shapes=[shape], build=lambda parts: parts[0])
        self.bias = vector(outputs) if bias else None
        self.stride = stride
        self.dilation = dilation
        self.padding = (kernel - 1) * dilation // 2

    def forward(self, op: Op, x: Value) -> Value:
        inputs = [x, self.weight] if self.bias is None else [x, self.weight, self.bias]
        return op.Conv(
            *inputs,
            strides=[self.stride],
            dilations=[self.dilation],
            pads=[self.padding, self.padding],
        )


def sequential(modules: Mapping[int, Module]) -> Module:
    """Return a container whose children have the given numbers as names, with gaps."""
    container = ModuleList()
    for number, module in modules.items():
        container._register_child(str(number), module)  # pyright: ignore
    return container


class GatedMLP(Module):
    """down(silu(gate(x)) * up(x)), the feed-forward of Qwen2 and of the vision encoder."""

    def __init__(self, hidden: int, inner: int, *, bias: bool = False) -> None:
        super().__init__()
        self.gate_up_proj = Linear(hidden, {"gate_proj": inner, "up_proj": inner}, bias=bias)
        self.down_proj = Linear(inner, hidden, bias=bias)

    def forward(self, op: Op, x: Value) -> Value:
        gate, up = op.Split(self.gate_up_proj(op, x), axis=-1, num_outputs=2, _outputs=2)
        return self.down_proj(op, op.Mul(op.Mul(gate, op.Sigmoid(gate)), up))


def contrib_op(
    op: Op, name: str, *inputs: Value | None, outputs: int = 1, **attributes: Any
) -> Any:
    """Add an operator of the domain com.microsoft, with float32 outputs.

    The output type is set here, because ONNX's type inference does not know these operators. Later
    graph rewrites need the type.
    """
    found = getattr(op, name)(*inputs, _domain=MICROSOFT, _outputs=outputs, **attributes)
    for value in found if outputs > 1 else [found]:
        value.type = ir.TensorType(ir.DataType.FLOAT)
    return found


def attention(op: Op, query: Value, key: Value, value: Value, heads: int, **masks: Value) -> Value:
    """Softmax attention over (batch, rows, heads * head_dim) with scale head_dim ** -0.5.

    `masks`: `key_padding_mask` int32 (batch,) counts the real keys of each row of the batch, or
    `attention_bias` float32 (batch, 1, queries, keys) is added to the scores.
    """
    padding, bias = masks.get("key_padding_mask"), masks.get("attention_bias")
    return contrib_op(
        op, "MultiHeadAttention", query, key, value, None, padding, bias, num_heads=heads
    )
