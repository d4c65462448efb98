"""What a microphone hears: frames, whether there is a voice in them, and where turns begin and end.

Both the samples that are kept and the frames of the turn detector are counted from the session's
begin. Frames in which no turn is looked for count as well.
"""

from collections.abc import Iterator

from omni_runtime.arrays import FloatArray
from omni_runtime.voice.capture import Capture
from omni_runtime.voice.turn_detector import TurnDetector, TurnEvent, TurnOptions
from omni_runtime.voice.vad import FRAME, SAMPLE_RATE, VoiceActivity

ECHO_TAIL = 0.5
"""Seconds after a reply in which a room still echoes it: latency of devices, and reverberation."""


class Microphone(Capture):
    """A capture with voice activity and turn detection."""

    def __init__(self, options: TurnOptions) -> None:
        super().__init__()
        self.detector = TurnDetector(options)
        self._vad = VoiceActivity()
        self._echo_until = 0

    def echoes(self, *, speaking: bool) -> bool:
        """Whether the room is filled with the reply: it is played, or has only just been."""
        if speaking:
            self._echo_until = self.samples + round(ECHO_TAIL * SAMPLE_RATE)
        return self.samples < self._echo_until

    def turn_events(
        self, frame: FloatArray, *, deaf: bool, hands_free: bool, start: float | None
    ) -> Iterator[TurnEvent]:
        """Take a frame. `start` replaces the seconds of voice that begin a turn.

        A `deaf` microphone hears silence. Without `hands_free` there are no turns to find.
        """
        probability = 0.0 if deaf else float(self._vad.probabilities(frame)[0])
        if hands_free:
            yield from self.detector.push(probability, start=start)
        else:
            self.detector.skip()

    def seconds_since(self, frame: int) -> float:
        """Seconds since the end of this frame of the detector."""
        return (self.detector.frame - frame) * FRAME / SAMPLE_RATE
