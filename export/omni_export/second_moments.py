"""Mean squares of the inputs of a decoder's matrices, measured on a text.

They tell the search of 4-bit blocks (`omni_quantize.blocks`) which inputs matter. The layers run
one after the other in torch, in float32, and each weight is read when it is needed, so that memory
holds one matrix and the activations of one layer. `calibration.txt` has short conversations and
texts in several languages, written for this purpose.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

import numpy as np
import onnx_ir as ir
import torch
from torch.nn import functional

from omni_export.graphs.layers import Rows
from omni_export.source import DecoderSource
from omni_quantize.weight_stream import columns_of
from omni_runtime.arrays import FloatArray
from omni_runtime.inputs.tokenizer import Tokenizer

SEQUENCE = 512
"""Tokens that attend to each other."""

MAX_TOKENS = 4096
"""Tokens of a calibration; more of them change the measured quality little."""


def text() -> str:
    """Return the text that ships with the exporter."""
    return (resources.files("omni_export") / "calibration.txt").read_text("utf-8")


def of_text(
    text: str, tokenizer: Tokenizer, rows: Rows, model: ir.Model, config: DecoderSource
) -> dict[str, FloatArray]:
    """`measure` on a text, which may have special tokens. `rows` reads rows of the embedding."""
    ids: list[int] = []
    for part in tokenizer.split(text):
        ids += [part] if isinstance(part, int) else tokenizer.encode(part)
    ids = ids[:MAX_TOKENS]
    known = {one: rows(one, one + 1)[0] for one in sorted(set(ids))}
    return measure(model, config, np.stack([known[one] for one in ids]))


def measure(
    model: ir.Model, config: DecoderSource, embeddings: FloatArray
) -> dict[str, FloatArray]:
    """Return float32 (inner,) for each weight (inner, outer) of the layers of a decoder graph.

    `embeddings`: float32 (tokens, hidden), the inputs of the first layer.
    """
    found: dict[str, FloatArray] = {}
    hidden = torch.from_numpy(embeddings)
    with torch.inference_mode():
        for index in range(config.num_hidden_layers):
            layer = _Layer(model, config, f"model.layers.{index}", found)
            hidden = layer(hidden)
    return found


@dataclass
class _Layer:
    """One layer of Qwen2, as `graphs.decoder.DecoderLayer`; notes the inputs of its matrices."""

    model: ir.Model
    config: DecoderSource
    prefix: str
    found: dict[str, FloatArray]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        normed = self._norm(x, "input_layernorm")
        mixed = torch.cat([*map(self._attend, self._product(normed, "self_attn.qkv_proj"))])
        x = x + torch.cat([*self._product(mixed, "self_attn.o_proj")])
        normed = self._norm(x, "post_attention_layernorm")
        inner = torch.cat(
            [
                functional.silu(gate) * up
                for gate, up in (
                    part.chunk(2, -1) for part in self._product(normed, "mlp.gate_up_proj")
                )
            ]
        )
        return x + torch.cat([*self._product(inner, "mlp.down_proj")])

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight = self._vector(f"{name}.weight")
        assert weight is not None
        return functional.rms_norm(x, x.shape[-1:], weight, self.config.rms_norm_eps)

    def _product(self, x: torch.Tensor, name: str) -> Iterator[torch.Tensor]:
        """Yield x W + b sequence by sequence, and note the mean squares of x."""
        weight = f"{self.prefix}.{name}.weight"
        self.found[weight] = x.square().mean(0).numpy()
        tensor = self.model.graph.initializers[weight].const_value
        assert tensor is not None
        matrix = torch.from_numpy(np.asarray(columns_of(tensor)(0, tensor.shape.numpy()[1])))
        bias = self._vector(f"{name}.bias")
        for part in x.split(SEQUENCE):
            product = part @ matrix
            yield product if bias is None else product + bias

    def _vector(self, name: str) -> torch.Tensor | None:
        value = self.model.graph.initializers.get(f"{self.prefix}.{name}")
        return (
            None
            if value is None or value.const_value is None
            else torch.from_numpy(np.array(value.const_value.numpy()))
        )

    def _attend(self, packed: torch.Tensor) -> torch.Tensor:
        """Causal grouped-query attention over one sequence (tokens, q | k | v)."""
        heads, shared = self.config.num_attention_heads, self.config.num_key_value_heads
        split = packed.unflatten(-1, (-1, self.config.head_dim)).transpose(0, 1)
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
        half = torch.arange(0, self.config.head_dim, 2) / self.config.head_dim
        angles = torch.arange(x.shape[1])[:, None] * self.config.rope_theta**-half
        cos, sin = angles.cos(), angles.sin()
        low, high = x.chunk(2, -1)
        return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)
