"""Live audio input: samples are pushed while the model prefills the earlier ones.

Not a recorder (`cli/microphone.py`) and not a decoder. The resampler and the log-mel transform keep
their state, so each sample is transformed once. While the stream is running, `features` returns
only blocks that later samples cannot change.
"""

from threading import Lock

import numpy as np
from numpy.typing import NDArray

from omni_runtime.arrays import FloatArray
from omni_runtime.bundle.config import AudioConfig
from omni_runtime.errors import MediaError, UsageError
from omni_runtime.inputs.media import empty_audio, from_array, require_finite
from omni_runtime.inputs.mel_features import LogMelStream, MelFeatures
from omni_runtime.inputs.resampler import Resampler

NAME = "the audio stream"


class AudioStream:
    """Audio that is still being recorded, for `Audio(stream)`.

    One thread may push while others read: `push` only queues the samples. `features` resamples and
    transforms them.
    """

    def __init__(self, config: AudioConfig, rate: int | None = None) -> None:
        """`config` is the model's. `rate` is in hertz; None takes the rate of the first push."""
        self.config = config
        self._rate = rate
        self._queue: list[FloatArray] = []
        self._pushed = 0
        self._running = True
        self._queue_lock = Lock()
        self._mel = LogMelStream(config)
        self._resampler: Resampler | None = None
        self._mel_finished = False
        self._mel_lock = Lock()

    @property
    def running(self) -> bool:
        """Whether more samples may be pushed."""
        return self._running

    @property
    def seconds(self) -> float:
        """Duration of the pushed samples, in seconds."""
        with self._queue_lock:
            return self._pushed / self._rate if self._rate else 0.0

    def push(self, samples: NDArray[np.generic], rate: int | None = None) -> None:
        """Append samples, (n,) or (channels, n): floats within [-1, 1] or full-scale integers.

        Raises MediaError for an invalid shape, dtype or rate, for values that are not finite, and
        when the rate changes. Raises UsageError after `finish`.
        """
        rate = rate if rate is not None else self._rate
        if rate is None:
            raise UsageError(f"{NAME} has no sample rate", fix="call push(samples, rate)")
        mono, rate = from_array(samples, rate)
        require_finite(mono, NAME)
        with self._queue_lock:
            if not self._running:
                raise UsageError(f"{NAME} is finished", fix="create a new AudioStream")
            if self._rate not in {None, rate}:
                raise MediaError(
                    f"{NAME} changes its sample rate from {self._rate} to {rate} Hz",
                    fix="create a new AudioStream for each sample rate",
                )
            self._rate = rate
            self._queue.append(mono)
            self._pushed += len(mono)

    def finish(self) -> None:
        """End the stream, so that `features` includes its last samples. May be called twice."""
        with self._queue_lock:
            self._running = False

    def snapshot(self) -> "AudioStream":
        """Return a finished copy of the stream so far. This stream continues.

        Raises UsageError when the stream is resampled: the state of a resampler cannot be copied.
        """
        with self._mel_lock, self._queue_lock:
            if self._rate != self.config.sample_rate:
                raise UsageError(
                    f"{NAME} is resampled and cannot be copied",
                    fix=f"push at {self.config.sample_rate} Hz",
                )
            copy = AudioStream(self.config, self._rate)
            copy._queue, copy._pushed = [*self._queue], self._pushed
            copy._mel = self._mel.copy()
            copy._running = False
            return copy

    def features(self) -> MelFeatures:
        """Return the final blocks of a running stream, or all blocks of a finished one.

        A later call may raise the revision of a block (see `mel_features.py`). It does not change
        the result of an earlier call. Raises MediaError for a finished stream without samples.
        """
        with self._mel_lock:
            with self._queue_lock:
                queue, self._queue = self._queue, []
                running, rate, pushed = self._running, self._rate, self._pushed
            if not running and not pushed:
                raise empty_audio(NAME)
            if rate is not None and not self._mel_finished:
                self._resampler = self._resampler or Resampler(rate, self.config.sample_rate)
                samples = np.concatenate([np.zeros(0, np.float32), *queue])
                self._mel.push(self._resampler.push(samples))
                if not running:
                    self._mel.push(self._resampler.finish())
                    self._mel.finish()
                    self._mel_finished = True
            return self._mel.features()
