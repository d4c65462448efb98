"""Mel to waveform, chunk by chunk: BigVGAN over windows with context on both sides.

BigVGAN is not causal: a sample depends on mel frames to its right. The right
context of a chunk is the provisional look-ahead of the DiT; with `context_frames` of final frames
the result equals one-shot synthesis. One mel frame is cross-faded between chunks, because the
provisional context can differ slightly from the final one.
"""

import numpy as np

from omni_runtime.arrays import FloatArray, IntArray
from omni_runtime.bundle.config import VocoderConfig
from omni_runtime.engine.session import Graph

SEAM_FRAMES = 1


class Vocoder:
    """Runs the vocoder's graph over a window."""

    def __init__(self, graph: Graph, config: VocoderConfig) -> None:
        self.config = config
        self._graph = graph

    def synthesize(self, mel: FloatArray, left: int, right: int) -> FloatArray:
        """Return the waveform of mel (frames, mel_dim) less `left` and `right` frames of context.

        Context shorter than `context_frames` is taken for the start or end of the utterance.
        """
        outputs = self._graph.run(
            {"mel": np.ascontiguousarray(mel.T)[None], "crops": self.crops(left, right)},
        )
        return np.asarray(outputs[0], np.float32)

    def crops(self, left: int, right: int) -> IntArray:
        """Samples to crop after each stage, int64 (stages + 1, 2): what no later stage needs."""
        rows: list[list[int]] = []
        kept = [left, right]
        for rate, margin in zip(self.config.stage_rates, self.config.margins, strict=True):
            there = [side * rate for side in kept]
            kept = [min(side, margin) for side in there]
            rows.append([side - rest for side, rest in zip(there, kept, strict=True)])
        rows.append(kept)
        return np.array(rows, np.int64)


class WaveStream:
    """Produces the waveform of one utterance chunk by chunk."""

    def __init__(self, vocoder: Vocoder, mel_dim: int) -> None:
        self._vocoder = vocoder
        self._context = np.zeros((0, mel_dim), np.float32)
        self._seam = np.zeros(0, np.float32)

    def push(self, mel: FloatArray, ahead: FloatArray, *, last: bool) -> FloatArray:
        """Return the samples of the new frames `mel` (frames, mel_dim); `ahead` follows them.

        Every chunk but the last needs at least one frame in `ahead`.
        """
        config = self._vocoder.config
        ahead = ahead[: 0 if last else config.context_frames + SEAM_FRAMES]
        beyond = 0 if last else SEAM_FRAMES  # frames computed twice, for the cross-fade
        window = np.concatenate([self._context, mel, ahead])
        wave = self._vocoder.synthesize(window, len(self._context), len(ahead) - beyond)
        fade = len(self._seam)
        if fade:
            weight = np.linspace(0, 1, fade, dtype=np.float32)
            wave[:fade] = self._seam * (1 - weight) + wave[:fade] * weight
        samples = len(mel) * config.samples_per_frame
        self._seam = wave[samples:]
        known = np.concatenate([self._context, mel])
        self._context = known[max(0, len(known) - config.context_frames) :].copy()
        return wave[:samples]
