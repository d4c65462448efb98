"""Reference decoder: the layers of Thinker or Talker in torch, float32, one matrix at a time.

The weights are those of the graph before quantization. Each is read when it is needed, so memory
holds one matrix and the activations of one layer. For text, whose three positions are equal.
"""

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir
import torch
from torch.nn import functional

from omni_export.source import DecoderSource
from omni_quantize.weight_stream import columns_of
from omni_runtime.arrays import FloatArray

SEQUENCE = 512
"""Tokens that attend to each other."""

Note = Callable[[str, torch.Tensor], None]
"""Receives the name of a weight and the inputs of its product, (tokens, inner)."""


class ReferenceDecoder:
    """The decoder of a graph made by `omni_export.build`."""

    def __init__(self, model: ir.Model, config: DecoderSource, note: Note | None = None) -> None:
        self._model = model
        self._config = config
        self._note = note

    @torch.inference_mode()
    def layers(self, embeddings: FloatArray) -> FloatArray:
        """Return the hidden states after the final norm, float32 (tokens, hidden).

        `embeddings`: float32 (tokens, hidden), the inputs of the first layer.
        """
        hidden = torch.from_numpy(embeddings)
        for index in range(self._config.num_hidden_layers):
            hidden = self._layer(hidden, f"model.layers.{index}")
        return self._norm(hidden, "model.norm").numpy()

    @torch.inference_mode()
    def product(self, rows: FloatArray, name: str) -> FloatArray:
        """Return rows W + b for the weights `name`, float32 (tokens, outer)."""
        return torch.cat([*self._product(torch.from_numpy(rows), name)]).numpy()

    def _layer(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """One layer of Qwen2, as `graphs.decoder.DecoderLayer`."""
        normed = self._norm(x, f"{name}.input_layernorm")
        packed = self._product(normed, f"{name}.self_attn.qkv_proj")
        mixed = torch.cat([*map(self._attend, packed)])
        x = x + torch.cat([*self._product(mixed, f"{name}.self_attn.o_proj")])
        normed = self._norm(x, f"{name}.post_attention_layernorm")
        pairs = (part.chunk(2, -1) for part in self._product(normed, f"{name}.mlp.gate_up_proj"))
        inner = torch.cat([functional.silu(gate) * up for gate, up in pairs])
        return x + torch.cat([*self._product(inner, f"{name}.mlp.down_proj")])

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight = self._vector(f"{name}.weight")
        assert weight is not None
        return functional.rms_norm(x, x.shape[-1:], weight, self._config.rms_norm_eps)

    def _product(self, x: torch.Tensor, name: str) -> Iterator[torch.Tensor]:
        """Yield x W + b sequence by sequence."""
        weight = f"{name}.weight"
        if self._note is not None:
            self._note(weight, x)
        tensor = self._model.graph.initializers[weight].const_value
        assert tensor is not None
        matrix = torch.from_numpy(np.asarray(columns_of(tensor)(0, tensor.shape.numpy()[1])))
        bias = self._vector(f"{name}.bias")
        for part in x.split(SEQUENCE):
            product = part @ matrix
            yield product if bias is None else product + bias

    def _vector(self, name: str) -> torch.Tensor | None:
        value = self._model.graph.initializers.get(name)
        return (
            None
            if value is None or value.const_value is None
            else torch.from_numpy(np.array(value.const_value.numpy()))
        )

    def _attend(self, packed: torch.Tensor) -> torch.Tensor:
        """Causal grouped-query attention over one sequence (tokens, q | k | v)."""
        heads, shared = self._config.num_attention_heads, self._config.num_key_value_heads
        split = packed.unflatten(-1, (-1, self._config.head_dim)).transpose(0, 1)
        query, key, value = split.split([heads, shared, shared])
        mixed = functional.scaled_dot_product_attention(
            self._rotate(query)[None],
            self._rotate(key)[None],
            value[None],
            is_causal=True,
            enable_gqa=True,
        )
        return mixed[0].transpose(0, 1).flatten(1)

    def _rotate(self, x: torch.Tensor) -> torch.Tensor:
        """Rotary embedding. The three positions of a text token are equal, so TMRoPE is RoPE."""
        half = torch.arange(0, self._config.head_dim, 2) / self._config.head_dim
        angles = torch.arange(x.shape[1])[:, None] * self._config.rope_theta**-half
        cos, sin = angles.cos(), angles.sin()
        low, high = x.chunk(2, -1)
        return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)
