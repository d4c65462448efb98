"""Reference decoder: the layers of Thinker or Talker in torch, float32, one matrix at a time.

The weights are those of the graph before quantization. Each is read when it is needed, so memory
holds one matrix and the activations of one layer. For text, whose three positions are equal.
"""

from collections.abc import Generator, Iterator

import numpy as np
import onnx_ir as ir
import torch
from torch.nn import functional

from omni_export.source import DecoderSource
from omni_quantize.weight_stream import columns_of
from omni_runtime.arrays import FloatArray

SEQUENCE = 512
"""Tokens that attend to each other."""

HEADS = ("lm_head.weight", "codec_head.weight")

Inputs = tuple[str, torch.Tensor]
"""The name of a weight, and the inputs of its product, (tokens, inner)."""


class ReferenceDecoder:
    """The decoder of a graph made by `omni_export.build`, whatever becomes of the graph."""

    def __init__(self, model: ir.Model, config: DecoderSource) -> None:
        found = {name: value.const_value for name, value in model.graph.initializers.items()}
        self._tensors = {name: tensor for name, tensor in found.items() if tensor is not None}
        self._config = config

    def layers(self, embeddings: FloatArray) -> FloatArray:
        """Return the hidden states after the final norm, float32 (tokens, hidden).

        `embeddings`: float32 (tokens, hidden), the inputs of the first layer.
        """
        steps = self.steps(embeddings)
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                return stop.value

    def steps(self, embeddings: FloatArray) -> Generator[Inputs, None, FloatArray]:
        """`layers`, one product after the other; yields the inputs of each before it is made."""
        hidden = torch.from_numpy(embeddings)
        for index in range(self._config.num_hidden_layers):
            hidden = yield from self._layer(hidden, f"model.layers.{index}")
        normed = self._norm(hidden, "model.norm")
        for head in HEADS:
            if head in self._tensors:
                yield head, normed
        return normed.numpy()

    def product(self, rows: FloatArray, name: str) -> FloatArray:
        """Return rows W + b for the weights `name`, float32 (tokens, outer)."""
        return torch.cat([*self._product(torch.from_numpy(rows), name)]).numpy()

    def _layer(self, x: torch.Tensor, name: str) -> Generator[Inputs, None, torch.Tensor]:
        """One layer of Qwen2, as `graphs.decoder.DecoderLayer`."""
        qk, v, out = (f"{name}.self_attn.{part}_proj" for part in ("qk", "v", "o"))
        gate_up, down = f"{name}.mlp.gate_up_proj", f"{name}.mlp.down_proj"
        normed = self._norm(x, f"{name}.input_layernorm")
        yield f"{qk}.weight", normed
        yield f"{v}.weight", normed
        packed = (
            torch.cat(parts, -1)
            for parts in zip(self._product(normed, qk), self._product(normed, v), strict=True)
        )
        mixed = torch.cat([*map(self._attend, packed)])
        yield f"{out}.weight", mixed
        x = x + torch.cat([*self._product(mixed, out)])
        normed = self._norm(x, f"{name}.post_attention_layernorm")
        yield f"{gate_up}.weight", normed
        pairs = (part.chunk(2, -1) for part in self._product(normed, gate_up))
        inner = torch.cat([functional.silu(gate) * up for gate, up in pairs])
        yield f"{down}.weight", inner
        return x + torch.cat([*self._product(inner, down)])

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight = self._vector(f"{name}.weight")
        assert weight is not None
        return functional.rms_norm(x, x.shape[-1:], weight, self._config.rms_norm_eps)

    def _product(self, x: torch.Tensor, name: str) -> Iterator[torch.Tensor]:
        """Yield x W + b sequence by sequence."""
        tensor = self._tensors[f"{name}.weight"]
        matrix = torch.from_numpy(np.asarray(columns_of(tensor)(0, tensor.shape.numpy()[1])))
        bias = self._vector(f"{name}.bias")
        for part in x.split(SEQUENCE):
            product = part @ matrix
            yield product if bias is None else product + bias

    def _vector(self, name: str) -> torch.Tensor | None:
        tensor = self._tensors.get(name)
        return None if tensor is None else torch.from_numpy(np.array(tensor.numpy()))

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
