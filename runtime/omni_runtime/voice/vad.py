"""Voice activity detection: Silero's network over 32-ms frames.

Source: silero-vad 6 (MIT), `silero/`. A frame is 512 samples at 16 kHz; the network also sees the
64 samples before it and keeps an LSTM state.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from omni_runtime.arrays import FloatArray

MODEL = Path(__file__).parent / "silero" / "silero_vad_16k_sequence.onnx"
SAMPLE_RATE = 16_000
FRAME = 512
FRAME_SECONDS = FRAME / SAMPLE_RATE
_CONTEXT = 64


class VoiceActivity:
    """A stream of speech probabilities. Holds state: one instance per audio stream."""

    def __init__(self) -> None:
        options: Any = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
        self.reset()

    def reset(self) -> None:
        """Forget the past."""
        self._context = np.zeros(_CONTEXT, np.float32)
        self._state = np.zeros((2, 1, 1, 128), np.float32)

    def probabilities(self, samples: FloatArray) -> FloatArray:
        """Return the speech probability of each frame, float32 (n,).

        `samples` is float32 mono (n * FRAME,) at 16 kHz, within [-1, 1].
        """
        frames = samples.reshape(-1, FRAME)
        if not len(frames):
            return np.zeros(0, np.float32)
        joined = np.concatenate([self._context, samples])
        inputs = np.lib.stride_tricks.sliding_window_view(joined, _CONTEXT + FRAME)[::FRAME]
        self._context = joined[-_CONTEXT:]
        h, c = self._state
        feeds = {"input": np.ascontiguousarray(inputs), "h": h, "c": c}
        found, h, c = (np.asarray(x) for x in self._session.run(None, feeds))
        self._state = np.stack([h, c])
        return found.astype(np.float32).reshape(-1)
