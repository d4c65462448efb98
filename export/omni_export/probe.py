"""Compare a quantized graph with its float32 version on the same inputs.

The inputs are random with a fixed seed, except a voice's mel for the vocoder. The comparison finds
wrong scales. The quality of a recipe is measured on trained weights instead (`quality.py`).
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from omni_quantize.error import ErrorMeter
from omni_runtime.arrays import FloatArray
from omni_runtime.bundle.config import ModelConfig
from omni_runtime.bundle.contracts import GraphContract
from omni_runtime.bundle.manifest import QuantizationError
from omni_runtime.engine.kv_cache import RotaryTable
from omni_runtime.engine.session import SessionOptions, open_session
from omni_runtime.inputs.mel import MIN_FRAMES
from omni_runtime.inputs.pixels import vision_geometry

Arrays = dict[str, npt.NDArray[Any]]

ROWS = 24
GRID = (1, 12, 12)


def compare(
    graph: str,
    exact: Path,
    near: Path,
    contract: GraphContract,
    config: ModelConfig,
    mel: FloatArray | None = None,
) -> QuantizationError:
    """Return the error of the graph in `near` against that in `exact`, over all float outputs.

    `mel`: see `inputs`.
    """
    feeds = inputs(graph, contract, config, mel)
    meter = ErrorMeter("outputs")
    outputs = [
        open_session(path, contract, SessionOptions()).run(None, feeds) for path in (exact, near)
    ]
    for spec, a, b in zip(contract.outputs, *outputs, strict=True):
        if not spec.name.startswith("present_"):
            meter.add(np.asarray(a), np.asarray(b))
    return meter.result()


def inputs(
    graph: str, contract: GraphContract, config: ModelConfig, mel: FloatArray | None = None
) -> Arrays:
    """Return inputs for a graph. The vocoder needs a `mel`, float32 (frames, mel_dim)."""
    random = np.random.default_rng(0)
    sizes = {
        "blocks": 2,
        "mel_frames": config.audio.block_frames if config.audio else 1,
        "rows": ROWS,
        "capacity": ROWS,
        "branches": 2,
        "frames": 72,
        "blocks_and_two": 72 // (config.speech.dit.block_frames if config.speech else 1) + 2,
        "patches": int(np.prod(GRID)),
    }
    arrays: Arrays = {}
    for spec in contract.inputs:
        shape = [sizes.get(dim, 1) if isinstance(dim, str) else dim for dim in spec.shape]
        if spec.dtype == "float32":
            arrays[spec.name] = random.standard_normal(shape, np.float32)
        else:
            arrays[spec.name] = np.zeros(shape, spec.dtype)
    if graph == "vocoder":
        assert mel is not None
        return {**arrays, "mel": np.ascontiguousarray(mel.T)[None]}
    arrays.update(_valid_inputs(graph, arrays, config))
    return arrays


def _valid_inputs(graph: str, arrays: Arrays, config: ModelConfig) -> Arrays:
    """Return the inputs whose values must be valid."""
    if graph == "audio_encoder":
        full = arrays["mel"].shape[2]  # one block is not full
        frames = np.array([full, max(full * 2 // 3, MIN_FRAMES)], np.int32)
        return {"frames": frames, "mel": arrays["mel"] * np.float32(0.5)}
    if graph == "vision_encoder":
        assert config.vision is not None
        geometry = vision_geometry([GRID], config.vision)
        return {
            "cos": np.cos(geometry.angles),
            "sin": np.sin(geometry.angles),
            "window_slots": geometry.window_slots,
            "window_lengths": geometry.window_lengths.astype(np.int32),
            "unpad": geometry.unpad,
            "grid_frames": np.array([GRID[0]], np.int64),
        }
    if graph in ("thinker", "talker"):
        part = config.thinker if graph == "thinker" else config.speech and config.speech.talker
        assert part is not None
        cos, sin = RotaryTable(part.decoder).rows(np.tile(np.arange(ROWS), (3, 1)))
        last = np.array([ROWS - 1], np.int32)
        return {
            "cos": cos,
            "sin": sin,
            "last_position": last,
            "total_length": np.array(ROWS, np.int32),
        }
    angles = np.linspace(0, 72, arrays["cos"].size, dtype=np.float32).reshape(arrays["cos"].shape)
    return {"cos": np.cos(angles), "sin": np.sin(angles), "key_bias": arrays["key_bias"] * 0}
