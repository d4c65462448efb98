"""Acoustic echo cancellation: WebRTC's AEC3, from the optional package livekit (Apache-2.0).

Without it the microphone hears the reply, and the session must be half duplex. Energy thresholds
are no substitute: a loud reply passes them, and a quiet user does not.
"""

import importlib
from typing import Any, Self

import numpy as np

from omni_runtime.arrays import FloatArray
from omni_runtime.errors import OmniError
from omni_runtime.voice.vad import SAMPLE_RATE

BLOCK = SAMPLE_RATE // 100
"""Samples of WebRTC's 10-ms frames."""
MAX_LAG = SAMPLE_RATE // 5
"""Samples that the reference may be ahead of the microphone."""


class EchoCanceller:
    """Removes the reply from microphone samples. Both are float32 mono at 16 kHz, in step."""

    def __init__(self, rtc: Any) -> None:
        self._rtc = rtc
        self._module = rtc.AudioProcessingModule(
            echo_cancellation=True, noise_suppression=True, high_pass_filter=True
        )
        self._microphone = self._reference = np.zeros(0, np.float32)

    @classmethod
    def load(cls) -> Self:
        """Raises OmniError where livekit is not installed."""
        try:
            return cls(importlib.import_module("livekit.rtc"))
        except ImportError:
            raise OmniError(
                "echo cancellation needs the package livekit",
                fix='pip install "pocket-omni[aec]"',
                code="no_echo_cancellation",
            ) from None

    def process(self, microphone: FloatArray, reference: FloatArray) -> FloatArray:
        """Return the microphone's samples without the echo of `reference`, which was played.

        Up to 10 ms are held back until a frame is complete. The two devices need not be in step: a
        missing reference counts as silence, an old one is dropped.
        """
        self._microphone = np.concatenate([self._microphone, microphone])
        self._reference = np.concatenate([self._reference, reference])
        missing = max(0, len(self._microphone) - len(self._reference))
        self._reference = np.pad(self._reference, (0, missing))
        self._reference = self._reference[-(len(self._microphone) + MAX_LAG) :]
        cleaned: list[FloatArray] = []
        while len(self._microphone) >= BLOCK:
            self._module.process_reverse_stream(self._frame(self._reference[:BLOCK]))
            frame = self._frame(self._microphone[:BLOCK])
            self._module.process_stream(frame)
            samples = np.frombuffer(frame.data, np.int16).astype(np.float32)
            cleaned.append(samples / np.float32(32768))
            self._microphone = self._microphone[BLOCK:]
            self._reference = self._reference[BLOCK:]
        return np.concatenate([np.zeros(0, np.float32), *cleaned], dtype=np.float32)

    def _frame(self, samples: FloatArray) -> Any:
        data = np.rint(np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes()
        return self._rtc.AudioFrame(bytearray(data), SAMPLE_RATE, 1, BLOCK)
