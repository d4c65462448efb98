"""The playback buffer of a reply: filled by the engine, emptied by a device, cleared by a cut.

Counts what was handed to the device, so that the session knows what was heard.
"""

from collections import deque
from threading import Lock

import numpy as np

from omni_runtime.arrays import FloatArray


class Playback:
    """Samples of one reply, float32 mono. Thread-safe; `take` never blocks for long."""

    def __init__(self, rate: int) -> None:
        """`rate` is that of the samples, in hertz."""
        self.rate = rate
        self._lock = Lock()
        self._chunks: deque[FloatArray] = deque()
        self._taken = 0
        self._underruns = 0
        self._dry = False

    @property
    def taken_seconds(self) -> float:
        """Seconds of the reply that the device took."""
        return self._taken / self.rate

    @property
    def buffered_seconds(self) -> float:
        """Seconds that wait for the device."""
        with self._lock:
            return sum(map(len, self._chunks)) / self.rate

    @property
    def underruns(self) -> int:
        """How often the device found the buffer empty in the middle of the reply."""
        return self._underruns

    def start(self) -> None:
        """Begin another reply: drop what is left of the last one, count from 0."""
        with self._lock:
            self._chunks.clear()
            self._taken = self._underruns = 0
            self._dry = False

    def add(self, samples: FloatArray) -> None:
        """Append samples of the reply, float32 (n,)."""
        with self._lock:
            self._chunks.append(samples)
            if self._dry:
                self._underruns += 1
                self._dry = False

    def clear(self) -> None:
        """Drop what was not taken: the reply was cut."""
        with self._lock:
            self._chunks.clear()

    def take(self, count: int) -> FloatArray:
        """Return the next `count` samples, with silence where there are none."""
        out = np.zeros(count, np.float32)
        filled = 0
        with self._lock:
            while filled < count and self._chunks:
                chunk = self._chunks.popleft()
                part = chunk[: count - filled]
                out[filled : filled + len(part)] = part
                filled += len(part)
                if len(part) < len(chunk):
                    self._chunks.appendleft(chunk[len(part) :])
            self._taken += filled
            self._dry = self._taken > 0 and filled < count
        return out
