"""Write a GGUF file of the Thinker's shape with random weights, to measure speed.

Types are those of llama.cpp's Q4_K_M: 4 bits, and 6 bits for the output and half of the value and
down projections. Rows that are not a multiple of 256 use the same fallbacks as llama.cpp. Blocks
are random bytes with valid scales, so the file is written at about the speed of the disk.
"""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from omni_runtime.bundle.config import DecoderConfig
from omni_runtime.bundle.manifest import Manifest
from omni_runtime.errors import OmniError

INNER_STEP = 32
"""Feed-forward widths are multiples of this, since a quantized row has complete blocks."""


@dataclass(frozen=True)
class Blocks:
    """A quantized type: `weights` in a block of `size` bytes, float16 scales at `scales`.

    Each scale is (byte, deviation of the integers it multiplies).
    """

    weights: int
    size: int
    scales: tuple[tuple[int, float], ...]


FORMATS = {
    "Q4_K": Blocks(256, 144, ((0, 257.0), (2, 34.0))),
    "Q6_K": Blocks(256, 210, ((208, 1365.0),)),
    "Q5_0": Blocks(32, 22, ((0, 9.0),)),
    "Q8_0": Blocks(32, 34, ((0, 74.0),)),
}
FALLBACK = {"Q4_K": "Q5_0", "Q6_K": "Q8_0"}


@dataclass(frozen=True)
class TensorPlan:
    """Name, rows, columns (0 rows: a vector) and type of one tensor."""

    name: str
    rows: int
    columns: int
    kind: str


def inner_size(manifest: Manifest) -> int:
    """Return the width of the Thinker's feed-forward layers, derived from the size of the graph."""
    config = manifest.model.thinker.decoder
    weights = manifest.graphs["thinker"].fp32_bytes / 4
    width, own = config.hidden_size, config.head_dim * config.heads
    attention = width * (2 * own + 2 * config.head_dim * config.kv_heads)
    rest = weights - config.vocab_size * width - config.layers * attention
    return round(rest / (3 * width * config.layers) / INNER_STEP) * INNER_STEP


def write(path: Path, config: DecoderConfig, inner: int, context: int) -> None:
    """Write the file. Raises OmniError without the package gguf, or for an odd row length."""
    gguf = _gguf()
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_name("random weights")
    writer.add_context_length(context)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("llama")  # a server rejects a model without a vocabulary
    writer.add_token_list([f"<{number}>" for number in range(config.vocab_size)])
    writer.add_token_scores([0.0] * config.vocab_size)
    control, normal = int(gguf.TokenType.CONTROL), int(gguf.TokenType.NORMAL)
    writer.add_token_types([control] * 3 + [normal] * (config.vocab_size - 3))
    plans = list(tensors(config, inner))
    for plan in plans:
        shape, size = _layout(plan)
        dtype = np.dtype(np.float32 if plan.kind == "F32" else np.uint8)
        kind = gguf.GGMLQuantizationType[plan.kind]
        writer.add_tensor_info(plan.name, shape, dtype, size, None if plan.kind == "F32" else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = np.random.default_rng(0)
    for plan in plans:  # one at a time: the file may be larger than memory
        writer.write_tensor_data(values(plan, random))
    writer.close()


def tensors(config: DecoderConfig, inner: int) -> Iterator[TensorPlan]:
    """Return all tensors of llama.cpp's qwen2 in order, with the types of Q4_K_M."""
    width = config.hidden_size
    own, shared = config.heads * config.head_dim, config.kv_heads * config.head_dim
    yield _matrix("token_embd", config.vocab_size, width, "Q4_K")
    for layer in range(config.layers):
        block = f"blk.{layer}"
        better = "Q6_K" if _more_bits(layer, config.layers) else "Q4_K"
        yield TensorPlan(f"{block}.attn_norm.weight", 0, width, "F32")
        for name, rows, kind in (("q", own, "Q4_K"), ("k", shared, "Q4_K"), ("v", shared, better)):
            yield _matrix(f"{block}.attn_{name}", rows, width, kind)
            yield TensorPlan(f"{block}.attn_{name}.bias", 0, rows, "F32")
        yield _matrix(f"{block}.attn_output", width, own, "Q4_K")
        yield TensorPlan(f"{block}.ffn_norm.weight", 0, width, "F32")
        yield _matrix(f"{block}.ffn_gate", inner, width, "Q4_K")
        yield _matrix(f"{block}.ffn_up", inner, width, "Q4_K")
        yield _matrix(f"{block}.ffn_down", width, inner, better)
    yield TensorPlan("output_norm.weight", 0, width, "F32")
    yield _matrix("output", config.vocab_size, width, "Q6_K")


def values(plan: TensorPlan, random: np.random.Generator) -> npt.NDArray[Any]:
    """Return random data: ones for a norm and small values for a bias (float32), else uint8."""
    if plan.kind == "F32":
        noise = random.standard_normal(plan.columns, np.float32) * np.float32(0.1)
        return noise + np.float32(plan.name.endswith("norm.weight"))
    form = FORMATS[plan.kind]
    count = plan.rows * plan.columns // form.weights
    blocks = np.frombuffer(random.bytes(count * form.size), np.uint8).reshape(count, -1).copy()
    for offset, deviation in form.scales:
        scale = np.array([1 / deviation / plan.columns**0.5], np.float16)
        blocks[:, offset : offset + 2] = scale.view(np.uint8)
    return blocks.reshape(plan.rows, -1)


def _more_bits(layer: int, layers: int) -> bool:
    """Return llama.cpp's use_more_bits: the first and last eighth, and every third in between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _matrix(name: str, rows: int, columns: int, kind: str) -> TensorPlan:
    if columns % FORMATS[kind].weights:
        kind = FALLBACK[kind]
    if columns % FORMATS[kind].weights:
        raise OmniError(
            f"rows of {columns} weights don't divide into blocks, so there is no 4-bit GGUF of "
            "this shape",
            fix="--gguf FILE",
        )
    return TensorPlan(f"{name}.weight", rows, columns, kind)


def _layout(plan: TensorPlan) -> tuple[tuple[int, ...], int]:
    """Return the stored shape (in bytes for a quantized type) and the size in bytes."""
    if plan.kind == "F32":
        return (plan.columns,), 4 * plan.columns
    form = FORMATS[plan.kind]
    row = plan.columns // form.weights * form.size
    return (plan.rows, row), plan.rows * row


def _gguf() -> Any:
    try:
        return importlib.import_module("gguf")
    except ImportError:
        raise OmniError(
            "the package gguf is not installed", fix="pip install gguf, or --gguf FILE"
        ) from None
