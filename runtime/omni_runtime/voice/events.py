"""States and events of a voice session."""

from dataclasses import dataclass
from enum import Enum

from omni_runtime.arrays import FloatArray
from omni_runtime.events import PlaybackUnderrun, PresetChosen, TurnDone


class State(Enum):
    """What the session is doing."""

    LISTENING = "listening"
    HEARING = "hearing"
    """The user speaks, or pauses within a turn."""
    THINKING = "thinking"
    """The turn has ended; no speech of the reply has been produced."""
    SPEAKING = "speaking"
    """The reply is being played."""


@dataclass(frozen=True)
class StateChanged:
    """The session entered `state`. `at`: seconds of microphone samples so far."""

    state: State
    at: float


@dataclass(frozen=True)
class TurnTaken:
    """The user's turn ended. `start` and `end` of the voice in seconds of microphone samples."""

    start: float
    end: float


@dataclass(frozen=True)
class Caption:
    """A piece of the reply's text."""

    text: str


@dataclass(frozen=True)
class Speech:
    """Samples of the reply to play, float32 mono (n,) at `rate` Hz, from `first_sample` on."""

    samples: FloatArray
    rate: int
    first_sample: int


@dataclass(frozen=True)
class Interrupted:
    """The reply was cut: `heard` is the text that is left of `text`. Playback must stop.

    `goes_on`: the turn that it answered had only paused, and is heard further.
    """

    heard: str
    text: str
    goes_on: bool = False


@dataclass(frozen=True)
class TurnFigures:
    """Numbers of a turn, in seconds: of the user's voice, and from its end to the first sound.

    `decided_to_sound` starts when the end of the turn was decided, `voice_to_sound` when the voice
    ended.
    """

    turn: TurnDone
    heard_seconds: float
    decided_to_sound: float | None
    voice_to_sound: float | None


@dataclass(frozen=True)
class Forgotten:
    """The context was nearly full: the oldest `turns` turns were forgotten."""

    turns: int


@dataclass(frozen=True)
class ReplyFailed:
    """The reply could not be made. The conversation is as it was before the turn."""

    error: BaseException


SessionEvent = (
    StateChanged
    | TurnTaken
    | Caption
    | Speech
    | Interrupted
    | TurnFigures
    | Forgotten
    | ReplyFailed
    | PresetChosen
    | PlaybackUnderrun
)
