"""Audio and vision encoders: features in, rows for the Thinker out."""

from itertools import pairwise

import numpy as np

from omni_runtime.arrays import FloatArray, IntArray
from omni_runtime.bundle.config import AudioConfig, VisionConfig
from omni_runtime.engine.session import Graph
from omni_runtime.inputs.mel_features import MelFeatures
from omni_runtime.inputs.pixels import Patches, vision_geometry
from omni_runtime.rotary import cos_sin

BLOCKS_AT_ONCE = 8
"""16 s of sound: bounds the memory of activations."""


class AudioEncoder:
    """Encodes log-mel block by block; blocks are independent, so any batch gives the same."""

    def __init__(self, graph: Graph, config: AudioConfig) -> None:
        self._graph = graph
        self._config = config

    def encode(self, features: MelFeatures) -> FloatArray:
        """Log-mel of at least one block to rows (tokens, hidden)."""
        full = features.frames // self._config.block_frames
        stops = [*range(BLOCKS_AT_ONCE, full, BLOCKS_AT_ONCE), full]
        if full < features.blocks:  # on its own, since a batch pads it to a full block
            stops.append(features.blocks)
        rows: list[FloatArray] = []
        for start, stop in pairwise([0, *stops]):
            if start < stop:
                rows += self._encode_blocks(*features.batch(start, stop))
        return np.concatenate(rows)

    def _encode_blocks(self, mel: FloatArray, frames: IntArray) -> list[FloatArray]:
        outputs = self._graph.run({"mel": mel, "frames": frames.astype(np.int32)})
        embeddings = np.asarray(outputs[0], np.float32)
        tokens = ((frames - 1) // 2 + 1) // 2
        return [block[:count] for block, count in zip(embeddings, tokens, strict=True)]


class VisionEncoder:
    """Encodes the patches of one picture or video."""

    def __init__(self, graph: Graph, config: VisionConfig) -> None:
        self._graph = graph
        self._config = config

    def encode(self, patches: Patches) -> FloatArray:
        """Patches to rows (tokens, hidden), in the order of the prompt."""
        where = vision_geometry([patches.grid], self._config)
        cos, sin = cos_sin(where.angles)
        outputs = self._graph.run(
            {
                "patches": patches.values[where.patch_index],
                "cos": cos,
                "sin": sin,
                "window_slots": where.window_slots,
                "window_lengths": where.window_lengths.astype(np.int32),
                "unpad": where.unpad,
                "grid_frames": np.array([patches.grid[0]], np.int64),
            },
        )
        return np.asarray(outputs[0], np.float32)[where.reverse_index]
