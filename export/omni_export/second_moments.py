"""Mean squares of the inputs of a decoder's matrices, measured on a text.

They tell the search of 4-bit blocks (`omni_quantize.blocks`) which inputs matter.
`calibration.txt` has short conversations and texts in several languages, written for this purpose.
"""

from importlib import resources

import numpy as np
import onnx_ir as ir
import torch

from omni_export.graphs.layers import Rows
from omni_export.reference_decoder import ReferenceDecoder
from omni_export.source import DecoderSource
from omni_runtime.arrays import FloatArray
from omni_runtime.inputs.tokenizer import Tokenizer

MAX_TOKENS = 4096
"""Tokens of a calibration; more of them change the measured quality little."""


def text() -> str:
    """Return the text that ships with the exporter."""
    return (resources.files("omni_export") / "calibration.txt").read_text("utf-8")


def of_text(
    text: str, tokenizer: Tokenizer, rows: Rows, model: ir.Model, config: DecoderSource
) -> dict[str, FloatArray]:
    """`measure` on a text, which may have special tokens. `rows` reads rows of the embedding."""
    ids = token_ids(text, tokenizer)[:MAX_TOKENS]
    known = {one: rows(one, one + 1)[0] for one in sorted(set(ids))}
    return measure(model, config, np.stack([known[one] for one in ids]))


def token_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    """Tokenize a text in which special tokens are written out."""
    ids: list[int] = []
    for part in tokenizer.split(text):
        ids += [part] if isinstance(part, int) else tokenizer.encode(part)
    return ids


def measure(
    model: ir.Model, config: DecoderSource, embeddings: FloatArray
) -> dict[str, FloatArray]:
    """Return float32 (inner,) for each weight (inner, outer) of the layers of a decoder graph.

    `embeddings`: float32 (tokens, hidden), the inputs of the first layer.
    """
    found: dict[str, FloatArray] = {}

    def note(weight: str, inputs: torch.Tensor) -> None:
        found[weight] = inputs.square().mean(0).numpy()

    ReferenceDecoder(model, config, note).layers(embeddings)
    return found
