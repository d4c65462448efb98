"""Random weights of any shape, generated when they are read and never stored.

Such a checkpoint is a folder with config.json, and `random_weights.json` instead of weights. Each
block of rows has its own seed, from the tensor's name and the block number. Any rows can thus be
generated alone and reproducibly, and no two tensors are equal (ONNX Runtime would store equal
tensors once, which would distort measurements of memory).
"""

import math
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from msgspec import Struct

from omni_runtime.errors import OmniError

DESCRIPTION = "random_weights.json"
INV_FREQ = "token2wav.code2wav_dit_model.rotary_embed.inv_freq"
CODEC_HEAD = "talker.codec_head.weight"
VALUES_AT_ONCE = 2**20
LEVELS = 2**16
"""Distinct values of a tensor before scaling: midpoints of equally likely intervals."""


class Description(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of `random_weights.json`. `silenced`: Talker codes whose logits are zero."""

    seed: int
    dtype: str
    silenced: tuple[int, ...]


def described(folder: Path) -> bool:
    """Return whether the weights of the folder are random and not stored."""
    return (folder / DESCRIPTION).is_file()


def describe(folder: Path, description: Description) -> None:
    """Write the description into a folder that has a config.json."""
    text = msgspec.json.format(msgspec.json.encode(description), indent=2)
    (folder / DESCRIPTION).write_bytes(text + b"\n")


class RandomWeights:
    """The tensors of the transformers model for the folder's config.json."""

    def __init__(self, folder: Path) -> None:
        """Read the description. Raises OmniError if that fails."""
        try:
            raw = (folder / DESCRIPTION).read_bytes()
            self._description = msgspec.json.decode(raw, type=Description)
            self.dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[
                self._description.dtype
            ]
        except (OSError, msgspec.DecodeError, KeyError) as error:
            raise OmniError(
                f"{folder / DESCRIPTION} cannot be read: {error}",
                fix="create it again with --model random",
            ) from None
        self._model = _model(folder)
        self.shapes = {name: tuple(t.shape) for name, t in self._model.state_dict().items()}

    def get(self, name: str, rows: slice | None) -> torch.Tensor:
        """Generate some rows of a tensor, or all of it, in the dtype of the checkpoint."""
        shape = self.shapes[name]
        start, stop = (rows.start, rows.stop) if rows else (0, shape[0])
        stop = min(stop, shape[0])
        if name == INV_FREQ:  # not learned: the reference computes it from the configuration
            steps = torch.arange(start, stop, dtype=torch.float32) / shape[0]
            return 1.0 / 10000.0**steps
        width = math.prod(shape[1:])
        step = max(1, VALUES_AT_ONCE // width)
        table = _levels(self.dtype, *_scale(name, shape))
        found = torch.empty((stop - start, width), dtype=self.dtype)
        for block in range(start // step, -(-stop // step)):
            first, last = block * step, min((block + 1) * step, shape[0])
            values = self._random(name, block, (last - first) * width, table).reshape(-1, width)
            low, high = max(first, start), min(last, stop)
            found[low - start : high - start] = values[low - first : high - first]
        if name == CODEC_HEAD:
            for row in self._description.silenced:
                if start <= row < stop:
                    found[row - start] = 0
        return found.reshape(stop - start, *shape[1:])

    def _random(self, name: str, block: int, count: int, table: Any) -> torch.Tensor:
        key = [self._description.seed, zlib.crc32(name.encode()), block]
        bits = np.random.Generator(np.random.SFC64(key)).bytes(2 * count)
        values = torch.from_numpy(np.take(table, np.frombuffer(bits, "<u2")))
        return values.view(torch.bfloat16) if self.dtype == torch.bfloat16 else values


def _model(folder: Path) -> Any:
    """Create the transformers model on the meta device, for its names and shapes."""
    from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration  # noqa: PLC0415

    with torch.device("meta"):
        return Qwen2_5OmniForConditionalGeneration(
            Qwen2_5OmniConfig.from_pretrained(folder, trust_remote_code=False)
        )


def _scale(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Return the deviation and mean that keep activations near 1 in all layers."""
    if "embed_tokens" in name or "codec_embed" in name:
        return 1.0, 0.0
    if len(shape) > 1:
        # The vocoder sums many branches and clips at -1 and 1, so its gain is smaller.
        gain = 0.4 if "bigvgan" in name else 1.0
        return gain / math.prod(shape[1:]) ** 0.5, 0.0
    gain = "norm" in name or "ln_" in name
    return 0.1, 1.0 if gain and name.endswith("weight") else 0.0


@lru_cache(maxsize=64)
def _levels(dtype: torch.dtype, deviation: float, mean: float) -> Any:
    """Return the LEVELS values of a normal distribution; bfloat16 is viewed as int16."""
    middles = (torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS
    levels = (torch.special.ndtri(middles) * deviation + mean).to(dtype)
    return (levels.view(torch.int16) if dtype == torch.bfloat16 else levels).numpy()
