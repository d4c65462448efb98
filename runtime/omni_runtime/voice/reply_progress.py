"""What a session knows of the reply in progress, or of the last one while it is being played."""

from dataclasses import dataclass, field
from time import perf_counter

from omni_runtime.events import AudioDelta, TurnDone
from omni_runtime.voice.events import TurnFigures

END_TOLERANCE = 0.02
"""Seconds: a reply that was played up to here was heard to its end."""


@dataclass
class ReplyProgress:
    """Text and speech so far; times in seconds."""

    voice_to_decided: float
    heard_seconds: float
    decided: float = field(default_factory=perf_counter)
    text: str = ""
    samples: int = 0
    rate: int = 1
    first_sound: float | None = None
    done: bool = False

    def add(self, audio: AudioDelta) -> bool:
        """Count a chunk of speech; True for the first one."""
        first = self.first_sound is None
        if first:
            self.first_sound = perf_counter() - self.decided
        self.samples, self.rate = audio.first_sample + len(audio.samples), audio.rate
        return first

    def over(self, played: float) -> bool:
        """Whether all of it was made, and played."""
        return self.done and played >= self.samples / self.rate - END_TOLERANCE

    def figures(self, done: TurnDone) -> TurnFigures:
        """The figures of the turn."""
        sound = self.first_sound
        voice = None if sound is None else sound + self.voice_to_decided
        return TurnFigures(done, self.heard_seconds, sound, voice)
