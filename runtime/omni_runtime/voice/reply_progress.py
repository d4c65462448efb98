"""What a session knows of the reply in progress, or of the last one while it is being played."""

from dataclasses import dataclass, field
from time import perf_counter

from omni_runtime.events import AudioDelta, Event, TurnDone
from omni_runtime.inputs.messages import ContentPart
from omni_runtime.options import ReplyOptions
from omni_runtime.serving.commands import Failed
from omni_runtime.voice.events import TurnFigures
from omni_runtime.voice.heard_turn import HeardTurn

END_TOLERANCE = 0.02
"""Seconds: a reply that was played up to here was heard to its end."""
FULL, KEPT = 0.25, 0.5
"""With less room than `FULL` of the context, old turns are forgotten until `KEPT` is in use."""


def room_wanted(done: TurnDone) -> int:
    """Tokens for which old turns should be forgotten after a turn; 0 while there is room."""
    full = done.context_limit - done.context_used < done.context_limit * FULL
    return round(done.context_limit * (1 - KEPT)) if full else 0


@dataclass
class ReplyProgress:
    """Text and speech so far; times in seconds.

    `parts` is what it answers; with `turn` the last one is the sound of that turn. Until the turn
    is decided the events are `held`.
    """

    parts: list[ContentPart]
    options: ReplyOptions
    turn: HeardTurn | None = None
    held: list[Event | Failed] = field(default_factory=list[Event | Failed])
    voice_to_decided: float = 0.0
    heard_seconds: float = 0.0
    decided: float = 0.0
    text: str = ""
    samples: int = 0
    rate: int = 1
    first_sound: float | None = None
    done: bool = False

    @property
    def speaks(self) -> bool:
        """Whether it is to be spoken."""
        return self.options.speech is not None

    @property
    def begun(self) -> bool:
        """Whether anything of it was given to the user: sound, or text if it is not spoken."""
        return self.first_sound is not None if self.speaks else bool(self.text)

    @property
    def open_turn(self) -> HeardTurn | None:
        """Its turn as long as a voice continues that: until the reply has begun."""
        return None if self.begun else self.turn

    def decide(self, voice_to_decided: float, heard_seconds: float) -> list[Event | Failed]:
        """The turn has ended; returns what was held."""
        self.voice_to_decided, self.heard_seconds = voice_to_decided, heard_seconds
        self.decided = perf_counter()
        held, self.held = self.held, []
        return held

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
