"""Second moments of the inputs of a decoder's matrices, measured on a text.

They tell the search of 4-bit blocks (`omni_quantize.blocks`) which inputs matter, and which errors
make up for each other.
`calibration.txt` has short conversations and texts in several languages, written for this purpose.
A checkpoint that was trained on a domain of its own may bring a file of this name.
"""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from threading import Lock

import numpy as np
import onnx_ir as ir

from omni_export.graphs.layers import Rows
from omni_export.reference_decoder import ReferenceDecoder
from omni_export.source import DecoderSource
from omni_quantize.moments import Moments
from omni_runtime.arrays import FloatArray
from omni_runtime.errors import OmniError
from omni_runtime.inputs.tokenizer import Tokenizer

FILE = "calibration.txt"
MAX_TOKENS = 8192
"""Tokens of a calibration; more of them change the measured quality little."""


def text() -> str:
    """Return the text that ships with the exporter."""
    return (resources.files("omni_export") / FILE).read_text("utf-8")


def text_for(checkpoint: Path) -> str:
    """Return the text of a checkpoint if it brings one, else the text of the exporter.

    Raises OmniError if its text cannot be read.
    """
    path = checkpoint / FILE
    if not path.exists():
        return text()
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OmniError(f"{path}: {error}", fix="remove it, or use --calibrate") from None


def embedded(text: str, tokenizer: Tokenizer, rows: Rows) -> FloatArray:
    """Return the embeddings of a text, which may have special tokens, float32 (tokens, hidden).

    `rows` reads rows of the embedding.
    """
    ids = token_ids(text, tokenizer)[:MAX_TOKENS]
    known = {one: rows(one, one + 1)[0] for one in sorted(set(ids))}
    return np.stack([known[one] for one in ids])


def token_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    """Tokenize a text in which special tokens are written out."""
    ids: list[int] = []
    for part in tokenizer.split(text):
        ids += [part] if isinstance(part, int) else tokenizer.encode(part)
    return ids


class InOrder:
    """Measures the inputs of weights of a decoder graph when they are asked for.

    They should be asked for in the order of the layers: then memory holds the activations of one
    layer. A weight that was asked for before is measured from the start again. Thread-safe.
    """

    def __init__(
        self,
        model: ir.Model,
        config: DecoderSource,
        embeddings: FloatArray,
        wanted: set[str],
        given: Mapping[str, FloatArray] | None = None,
    ) -> None:
        """`embeddings`: float32 (tokens, hidden), the inputs of the first layer.

        `wanted` are the weights that will be asked for. `given` are the inputs, float32 (tokens,
        inner), of weights before the layers.
        """
        self._decoder = ReferenceDecoder(model, config)
        self._embeddings = embeddings
        self._wanted = wanted
        self._given = given or {}
        self._lock = Lock()
        self._restart()

    def __call__(self, weight: str) -> Moments:
        """Return the moments of the inputs of a weight."""
        if (inputs := self._given.get(weight)) is None:
            with self._lock:
                inputs = self._find(weight)
        return Moments.of(inputs)

    def _restart(self) -> None:
        self._steps = self._decoder.steps(self._embeddings)
        self._passed: dict[str, FloatArray] = {}

    def _find(self, weight: str) -> FloatArray:
        for _ in range(2):
            if (known := self._passed.pop(weight, None)) is not None:
                return known
            for name, inputs in self._steps:
                if name == weight:
                    return inputs.numpy()
                if name in self._wanted:
                    self._passed[name] = inputs.numpy()
            self._restart()
        raise AssertionError(f"{weight} is no matrix of the decoder")
