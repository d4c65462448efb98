"""Turn detection: from speech probabilities to the start, the pauses and the end of a user's turn.

Pure bookkeeping over 32-ms frames: no audio, no clock, no thread. Time is counted in frames.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from omni_runtime.voice.vad import FRAME_SECONDS

HYSTERESIS = 0.15
"""A voice ends this far below the threshold at which it starts."""


@dataclass(frozen=True)
class TurnOptions:
    """Turn taking, in seconds. `threshold` is the speech probability at which a voice starts.

    `start` of voice begins a turn; `end_silence` ends it. After `pause` of silence the turn is
    prefilled speculatively. `interrupt` of voice cuts a reply that is being played; less is taken
    for a backchannel. `pre_roll` is the audio before the voice that belongs to the turn.
    """

    threshold: float = 0.5
    start: float = 0.1
    pause: float = 0.2
    end_silence: float = 0.5
    interrupt: float = 0.25
    pre_roll: float = 0.5


@dataclass(frozen=True)
class TurnStarted:
    """A voice began at frame `frame`."""

    frame: int


@dataclass(frozen=True)
class TurnPaused:
    """The voice has been silent for `pause`; its last frame was `frame` - 1."""

    frame: int


@dataclass(frozen=True)
class TurnResumed:
    """The voice went on after a pause."""


@dataclass(frozen=True)
class TurnEnded:
    """The voice has been silent for `end_silence`; its last frame was `frame` - 1."""

    frame: int


TurnEvent = TurnStarted | TurnPaused | TurnResumed | TurnEnded


class TurnDetector:
    """Finds turns in a stream of speech probabilities, one per frame."""

    def __init__(self, options: TurnOptions) -> None:
        self.options = options
        self.frame = 0
        """Frames so far."""
        self.in_turn = False
        self._voiced = False
        self._run = 0  # frames of the present voice, short gaps included
        self._silence = 0
        self._paused = False

    @property
    def voice_seconds(self) -> float:
        """Seconds since the present voice began; 0 in silence."""
        return self._run * FRAME_SECONDS if self._voiced else 0.0

    @property
    def silent(self) -> bool:
        """Whether the voice of a turn is silent: it may have ended."""
        return self.in_turn and not self._voiced

    def reset(self) -> None:
        """Leave the turn without an event."""
        self.in_turn = self._voiced = self._paused = False
        self._run = self._silence = 0

    def skip(self) -> None:
        """Count a frame in which no turn is looked for; leave the turn without an event."""
        self.frame += 1
        self.reset()

    def push(self, probability: float, *, start: float | None = None) -> Iterator[TurnEvent]:
        """Take the next frame. `start` replaces the seconds of voice that begin a turn."""
        options = self.options
        self.frame += 1
        floor = options.threshold - (HYSTERESIS if self._voiced else 0.0)
        self._voiced = probability >= floor
        if self._voiced:
            self._run += 1 + (self._silence if self._run else 0)
            self._silence = 0
        else:
            self._silence += 1
        if not self.in_turn:
            needed = options.start if start is None else start
            if not self._voiced and self._silence * FRAME_SECONDS >= options.pause:
                self._run = 0
            if self._voiced and self._run * FRAME_SECONDS >= needed:
                self.in_turn, self._paused = True, False
                yield TurnStarted(self.frame - self._run)
            return
        if self._voiced:
            if self._paused:
                self._paused = False
                yield TurnResumed()
            return
        silent, last = self._silence * FRAME_SECONDS, self.frame - self._silence
        if not self._paused and silent >= options.pause:
            self._paused = True
            yield TurnPaused(last)
        if silent >= options.end_silence:
            self.reset()
            yield TurnEnded(last)
