"""Scales between the matrices of a decoder: inputs with large values lose less to 4 bits (AWQ).

The weights of such an input are multiplied by a factor before they are rounded, and what makes the
input is divided by it: a norm, the values, or the up projection. The function stays the same.

Source: https://arxiv.org/abs/2306.00978, with one exponent instead of a search for each layer.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from omni_export.reference_decoder import ReferenceDecoder
from omni_export.source import DecoderSource
from omni_quantize.weight_stream import columns_of, set_columns
from omni_runtime.arrays import FloatArray

EXPONENT = 0.3
TOKENS = 1024
"""Mean magnitudes need fewer tokens than second moments."""


def factors(magnitudes: FloatArray) -> FloatArray:
    """Return the factor of each input from its mean magnitude, around 1, float32 (inner,)."""
    powers = np.maximum(magnitudes, 1e-4) ** np.float32(EXPONENT)
    return powers / np.sqrt(powers.max() * powers.min())


def equalize(model: ir.Model, config: DecoderSource, embeddings: FloatArray) -> None:
    """Scale the weights of a decoder graph in place; they are still read when they are needed.

    `embeddings`: float32 (tokens, hidden), the inputs of the first layer.
    """
    steps = ReferenceDecoder(model, config).steps(embeddings[:TOKENS])
    magnitudes = {name: inputs.abs().mean(0).numpy() for name, inputs in steps}
    for index in range(config.num_hidden_layers):
        _equalize_layer(_Layer(model, f"model.layers.{index}"), config, magnitudes)


class _Layer:
    """Weights of a layer by their names."""

    def __init__(self, model: ir.Model, name: str) -> None:
        self._values = model.graph.initializers
        self.name = name

    def divide(self, name: str, scale: FloatArray) -> None:
        """Divide a vector, if the layer has it."""
        if (value := self._values.get(f"{self.name}.{name}")) is not None:
            assert value.const_value is not None
            value.const_value = ir.tensor(value.const_value.numpy() / scale, name=value.name)

    def scale(self, name: str, inputs: FloatArray, outputs: FloatArray | None = None) -> None:
        """Multiply the rows of a weight (inner, outer) by `inputs`, divide columns by `outputs`."""
        value = self._values[f"{self.name}.{name}"]
        assert value.const_value is not None
        read = columns_of(value.const_value)

        def columns(start: int, stop: int) -> FloatArray:
            found = read(start, stop) * inputs[:, None]
            return found if outputs is None else found / outputs[start:stop]

        value.const_value = _lazy(value.const_value, columns)


def _lazy(tensor: ir.TensorProtocol, columns: Callable[[int, int], FloatArray]) -> ir.LazyTensor:
    outer = tensor.shape.numpy()[1]
    made = ir.LazyTensor(
        lambda: ir.tensor(np.ascontiguousarray(columns(0, outer))),
        dtype=tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
    )
    set_columns(made, columns)
    return made


def _equalize_layer(
    layer: _Layer, config: DecoderSource, magnitudes: dict[str, FloatArray]
) -> None:
    def inputs_of(weight: str) -> FloatArray:
        return factors(magnitudes[f"{layer.name}.{weight}"])

    attended = inputs_of("self_attn.qk_proj.weight")
    layer.divide("input_layernorm.weight", attended)
    layer.scale("self_attn.qk_proj.weight", attended)

    heads, shared = config.num_attention_heads, config.num_key_value_heads
    mixed = inputs_of("self_attn.o_proj.weight").reshape(shared, heads // shared, -1)
    values = np.exp(np.log(mixed).mean(1, keepdims=True))  # heads that share values share factors
    layer.scale("self_attn.v_proj.weight", attended, values.reshape(-1))
    layer.divide("self_attn.v_proj.bias", values.reshape(-1))
    layer.scale("self_attn.o_proj.weight", np.broadcast_to(values, mixed.shape).reshape(-1))

    normed, gated = inputs_of("mlp.gate_up_proj.weight"), inputs_of("mlp.down_proj.weight")
    layer.divide("post_attention_layernorm.weight", normed)
    layer.scale("mlp.gate_up_proj.weight", normed, np.concatenate([np.ones_like(gated), gated]))
    layer.scale("mlp.down_proj.weight", gated)
