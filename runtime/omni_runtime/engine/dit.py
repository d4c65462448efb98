"""Codes to mel, chunk by chunk, with the left context of the DiT cached.

A chunk is a number of blocks of mel frames: committed ones, and look-ahead to their right whose
result is provisional. For every solver evaluation the keys and values of the last committed block
are cached, so nothing to the left of a chunk is computed again. Noise depends only on the seed and
the absolute frame, so chunking does not change it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from omni_runtime.arrays import FloatArray, IntArray
from omni_runtime.bundle.config import DitConfig, SolverPreset
from omni_runtime.bundle.contracts import MODULATION_ROWS
from omni_runtime.bundle.tables import Table
from omni_runtime.engine.session import Graph
from omni_runtime.engine.solver import branches, evaluation_times, integrate
from omni_runtime.rotary import cos_sin

Noise = Callable[[int, int], FloatArray]
"""(first block, number of blocks) -> float32 (blocks * block_frames, mel_dim)."""

ABSENT = np.float32(-1e9)


def seeded_noise(seed: int, config: DitConfig) -> Noise:
    """Return standard normal noise; each block depends only on the seed and its number."""

    def block(number: int) -> FloatArray:
        bits = np.random.Philox(key=seed, counter=[0, 0, 0, number])
        shape = (config.block_frames, config.mel_dim)
        return np.random.Generator(bits).standard_normal(shape, np.float32)

    def noise(first: int, count: int) -> FloatArray:
        return np.concatenate([block(number) for number in range(first, first + count)])

    return noise


@dataclass(frozen=True)
class MelChunk:
    """`mel` (frames, mel_dim) is final, `provisional` (frames, mel_dim) the look-ahead after it."""

    mel: FloatArray
    provisional: FloatArray


class Dit:
    """Runs the DiT's graph for one preset."""

    def __init__(
        self,
        graph: Graph,
        config: DitConfig,
        preset: SolverPreset,
        code_table: Table,
        modulation: FloatArray,
    ) -> None:
        self.config = config
        self.preset = preset
        self.graph = graph
        self.code_table = code_table
        times = evaluation_times(preset)
        self.evaluations = len(times)
        self.branches = branches(preset)
        _, self._row_of = np.unique(times, return_inverse=True)
        self._modulation = modulation
        self._frequencies = np.array(config.rotary_frequencies, np.float32)

    def single(self, guidance: float) -> "Dit":
        """Return this graph with a single guided evaluation, for timing."""
        step = SolverPreset(
            solver="euler",
            steps=1,
            sway=0.0,
            guidance=guidance,
            guided=1,
            summary="one evaluation",
        )
        return Dit(self.graph, self.config, step, self.code_table, self._modulation)

    def modulation(self, evaluation: int) -> tuple[FloatArray, FloatArray]:
        """Return the modulation rows (layers, 6, hidden) and (2, hidden) of one evaluation."""
        rows = self._modulation[self._row_of[evaluation]]
        layers = self.config.layers * MODULATION_ROWS
        return rows[:layers].reshape(self.config.layers, MODULATION_ROWS, -1), rows[layers:]

    def rotary(self, first: int, frames: int) -> tuple[FloatArray, FloatArray]:
        """Return cos and sin, (frames, head_dim // 2) each, of absolute frame positions."""
        positions = np.arange(first, first + frames, dtype=np.float32)
        angles = positions[:, None] * self._frequencies
        return cos_sin(angles)


class MelStream:
    """Produces the mel spectrogram of one utterance chunk by chunk."""

    def __init__(self, dit: Dit, voice: FloatArray, noise: Noise) -> None:
        config = dit.config
        self._dit = dit
        self._voice = voice[: max(dit.branches)]
        self._noise = noise
        self.blocks_done = 0
        inner = config.heads * config.head_dim
        shapes = [
            (config.look_back_layers, branches, config.block_frames, inner)
            for branches in dit.branches
        ]
        self._left = [
            (np.zeros(shape, np.float32), np.zeros(shape, np.float32)) for shape in shapes
        ]

    @property
    def codes_per_block(self) -> int:
        return self._dit.config.block_frames // self._dit.config.frames_per_code

    def chunk(self, codes: IntArray, commit: int) -> MelChunk:
        """Return the mel of the next `commit` blocks.

        `codes` int64 (n,) are those of the blocks and of the look-ahead. The last block of an
        utterance may have fewer codes; then only their frames are returned.
        """
        dit, config = self._dit, self._dit.config
        frames = len(codes) * config.frames_per_code
        blocks = -(-frames // config.block_frames)
        assert 0 < commit <= blocks, (commit, blocks)
        first = self.blocks_done * config.block_frames
        cos, sin = dit.rotary(first, frames)
        fixed: dict[str, npt.NDArray[Any]] = {
            "condition": self._condition(codes, frames),
            "cos": cos,
            "sin": sin,
            "key_bias": self._key_bias(blocks, frames),
            "commit": np.array([commit - 1], np.int64),
        }
        state = integrate(
            dit.preset,
            self._noise(self.blocks_done, blocks)[:frames],
            lambda evaluation, noisy: self._velocity(evaluation, noisy, fixed),
        )
        self.blocks_done += commit
        split = commit * config.block_frames
        return MelChunk(state[:split], state[split:])

    def _velocity(
        self, evaluation: int, noisy: FloatArray, fixed: dict[str, npt.NDArray[Any]]
    ) -> FloatArray:
        rows, final = self._dit.modulation(evaluation)
        key, value = self._left[evaluation]
        branches = self._dit.branches[evaluation]
        outputs = self._dit.graph.run(
            {
                "noisy": np.ascontiguousarray(noisy, np.float32)[None],
                "modulation": rows,
                "final_modulation": final,
                "past_key": key,
                "past_value": value,
                **fixed,
                "condition": fixed["condition"][:branches],
            },
        )
        velocity, key, value = (np.asarray(output, np.float32) for output in outputs)
        self._left[evaluation] = (key, value)
        if branches == 1:
            return velocity[0]
        guided, null = velocity
        return guided + (guided - null) * np.float32(self._dit.preset.guidance)

    def _condition(self, codes: IntArray, frames: int) -> FloatArray:
        """(branches, frames, hidden): code and voice in the first, null code in the second."""
        per_code = self._dit.config.frames_per_code
        condition = np.empty((len(self._voice), frames, self._voice.shape[1]), np.float32)
        condition[:] = self._voice[:, None]
        spoken = np.repeat(self._dit.code_table[codes], per_code, axis=0)
        condition[0] += spoken
        if len(condition) > 1:
            condition[1] += self._dit.code_table[np.zeros(1, np.int64)]
        return condition

    def _key_bias(self, blocks: int, frames: int) -> FloatArray:
        size = self._dit.config.block_frames
        bias = np.full(((blocks + 2) * size,), ABSENT, np.float32)
        bias[size : size + frames] = 0
        if self.blocks_done:
            bias[:size] = 0
        return bias.reshape(blocks + 2, size)
