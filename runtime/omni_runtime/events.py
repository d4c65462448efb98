"""What a reply is made of as it comes: text, sound, and one last record with its numbers."""

from dataclasses import dataclass
from typing import Literal

from omni_runtime.arrays import FloatArray

FinishReason = Literal["stop", "length", "context", "interrupted"]


@dataclass(frozen=True)
class TextDelta:
    """A piece of the reply's text. `seconds` of work since the turn began."""

    text: str
    seconds: float


@dataclass(frozen=True)
class AudioDelta:
    """A chunk of the reply's speech: float32 mono `samples` in -1 .. 1 at `rate` Hz.

    `first_sample` is the number of samples of the reply before this chunk. `text_position` is how
    many characters of the reply's text the Talker had read when it decoded the chunk's last code;
    it reads ahead of its voice.
    """

    samples: FloatArray
    rate: int
    seconds: float
    first_sample: int
    text_position: int


@dataclass(frozen=True)
class PresetChosen:
    """The preset that "auto" stands for here. Comes with every reply that asks for it.

    `realtime` gives for each preset of the bundle the seconds of speech for a second of work that
    a trial on this machine promises; text and listening to the question are not in it.
    """

    preset: str
    realtime: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class PlaybackUnderrun:
    """Speech that is heard while it is made paused, and will again. Comes once a reply at most.

    Seconds of speech for a second of work: `realtime` with everything counted, `codes` if making
    sound of the codes were free, so that no preset can reach more. `preset` is the one in use,
    `faster` those of the bundle with fewer evaluations, the best sounding first. `seconds` since
    the turn began.
    """

    realtime: float
    codes: float
    preset: str
    faster: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Timings:
    """Seconds since the turn began, and what was made. None where nothing was."""

    total: float
    prefill: float
    first_text: float | None
    first_audio: float | None
    last_text: float | None
    prompt_tokens: int
    cached_tokens: int
    """Of the prompt's tokens, those that were in the caches before the turn."""
    reply_tokens: int
    codes: int
    speech: float
    """Seconds of speech."""

    @classmethod
    def of_prefill(cls, seconds: float, prompt_tokens: int) -> "Timings":
        """Of a turn that was cancelled before its reply began."""
        return cls(seconds, seconds, None, None, None, prompt_tokens, 0, 0, 0, 0.0)

    @property
    def tokens_per_second(self) -> float | None:
        """Decode speed: the prefill gives the first token, so it is not counted."""
        if self.last_text is None or self.reply_tokens < 2 or self.last_text <= self.prefill:
            return None
        return (self.reply_tokens - 1) / (self.last_text - self.prefill)

    @property
    def realtime(self) -> float | None:
        """Seconds of speech for each second of work after the prefill; above 1 keeps up."""
        return self.speech / (self.total - self.prefill) if self.speech else None


@dataclass(frozen=True)
class TurnDone:
    """The end of a reply. `peak_memory` is the process's largest resident size, in bytes.

    `speech_complete` tells whether the Talker ended by itself; False when it met the limit of
    codes or of its context, None when nothing was spoken.
    """

    text: str
    finish_reason: FinishReason
    speech_complete: bool | None
    timings: Timings
    context_used: int
    context_limit: int
    cache_bytes: int
    peak_memory: int


Event = TextDelta | AudioDelta | PresetChosen | PlaybackUnderrun | TurnDone
