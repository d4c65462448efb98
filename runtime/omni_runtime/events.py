"""Events of a reply: text, audio, and a final record with timings."""

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
    """The preset that "auto" selected. Emitted in every reply that asks for "auto".

    `realtime` is the estimated real-time factor of each preset on this machine, in seconds of
    speech per second of work, without prefill and text.
    """

    preset: str
    realtime: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class PlaybackUnderrun:
    """Playback underran and will underrun again. Emitted at most once per reply.

    `realtime` is the real-time factor, in seconds of speech per second of work. `codes` is that of
    decoding alone, the upper bound for every preset. `preset` is the one in use, `faster` those
    with fewer function evaluations, best quality first. `seconds` of work since the turn began.
    """

    realtime: float
    codes: float
    preset: str
    faster: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Timings:
    """Seconds of work since the turn began, and counts. None where something did not happen."""

    total: float
    prefill: float
    first_text: float | None
    first_audio: float | None
    last_text: float | None
    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens that were in the KV caches before the turn."""
    reply_tokens: int
    codes: int
    speech: float
    """Seconds of speech."""

    @classmethod
    def of_prefill(cls, seconds: float, prompt_tokens: int) -> "Timings":
        """Timings of a turn that was cancelled during its prefill."""
        return cls(seconds, seconds, None, None, None, prompt_tokens, 0, 0, 0, 0.0)

    @property
    def tokens_per_second(self) -> float | None:
        """Decode speed: the prefill gives the first token, so it is not counted."""
        if self.last_text is None or self.reply_tokens < 2 or self.last_text <= self.prefill:
            return None
        return (self.reply_tokens - 1) / (self.last_text - self.prefill)

    @property
    def realtime(self) -> float | None:
        """Real-time factor after the prefill, in seconds of speech per second of work."""
        return self.speech / (self.total - self.prefill) if self.speech else None


@dataclass(frozen=True)
class TurnDone:
    """The end of a reply. `peak_memory` is the peak resident size of the process, in bytes.

    `speech_complete`: whether the Talker ended by itself. False when it reached the limit of codes
    or of its context; None when nothing was spoken.
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
