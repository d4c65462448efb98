"""The sound of a turn while it is heard: a stream that grows, and a copy of it at a pause."""

from omni_runtime.arrays import FloatArray
from omni_runtime.inputs.audio_stream import AudioStream
from omni_runtime.voice.vad import SAMPLE_RATE

BLOCK_SECONDS = 2.0
"""The audio encoder's block: how often there is something new to prefill."""


class HeardTurn:
    """A turn that has not ended. `start` is its first sample, counted from the session's begin."""

    def __init__(self, stream: AudioStream, start: int, samples: FloatArray) -> None:
        """`samples`, float32 mono (n,) at 16 kHz, are those since `start`."""
        self.stream = stream
        self.start = start
        self._prefilled = -BLOCK_SECONDS  # what comes before the sound is final at once
        self._pause: AudioStream | None = None
        stream.push(samples)

    @property
    def seconds(self) -> float:
        """Seconds that were heard."""
        return self.stream.seconds

    def push(self, frame: FloatArray) -> None:
        """Append a frame."""
        self.stream.push(frame)

    def take_block(self) -> bool:
        """Whether another block is final since the last time that this was so; at first it is."""
        if self.seconds - self._prefilled < BLOCK_SECONDS:
            return False
        self._prefilled = self.seconds // BLOCK_SECONDS * BLOCK_SECONDS
        return True

    def pause(self) -> AudioStream:
        """Return a copy up to here. It is the whole turn unless `resume` follows."""
        self._pause = self.stream.snapshot()
        return self._pause

    def resume(self) -> None:
        """The turn goes on behind its pause."""
        self._pause = None

    def whole(self) -> AudioStream:
        """Return the turn, which has ended: up to its last pause, or up to here."""
        return self._pause or self.pause()

    def voice_seconds(self, now: int, silence: float) -> float:
        """Seconds from `start` to the end of the voice, `silence` seconds before sample `now`."""
        return max(0.0, (now - self.start) / SAMPLE_RATE - silence)
