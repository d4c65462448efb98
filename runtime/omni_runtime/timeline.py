"""When each word of a reply is spoken: an estimate, for cutting a reply to what was heard.

The Talker reads 50 rows of text a second, far ahead of its voice, so codes do not tell which word
is being spoken. What is known is the text, the samples, and where the samples are silent. The
estimate gives each word a typical duration by its spelling and scales all of them by one speed: the
reply's own if its speech is complete, otherwise that of earlier replies in this voice. Silence does
not count.

Measured against word times of a speech recognizer on the trained default (72 replies, two voices,
a cut every 0.1 s): BENCHMARKS.md.
"""

import re
import unicodedata
from dataclasses import dataclass, replace

import numpy as np

from omni_runtime.arrays import FloatArray

FRAME_SECONDS = 0.01
"""Resolution of the voice activity."""
SILENCE = 0.03
"""A frame is silent below this share of the loud frames' level."""
WORD_SECONDS, LETTER_SECONDS, PAUSE_SECONDS = 0.06, 0.054, 0.042
"""Typical durations: of a word, of each of its letters, and of lengthening before punctuation.
Fitted to 700 words of synthetic English speech; other languages are scaled by the speed."""
WIDE_SECONDS, DIGIT_SECONDS = 0.22, 0.3
"""Of a Chinese, Japanese or Korean character, and of a digit, which is read as a word."""
USUAL_SPEED = 1.25
"""Of the trained default's two voices, until a reply of this conversation was finished."""
MIN_SPEED, MAX_SPEED = 0.4, 2.5

_WORD = re.compile(r"\S+\s*")


def typical_seconds(text: str) -> float:
    """How long a text takes when it is read aloud at speed 1, without pauses."""
    total = 0.0
    for word in text.split():
        letters = sum(c.isalpha() for c in word)
        wide = sum(_wide(c) for c in word if c.isalpha())
        digits = sum(c.isdigit() for c in word)
        total += (letters - wide) * LETTER_SECONDS + wide * WIDE_SECONDS + digits * DIGIT_SECONDS
        total += WORD_SECONDS
        if letters + digits and not (word[-1].isalpha() or word[-1].isdigit()):
            total += PAUSE_SECONDS
    return total


def _wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"


def word_ends(text: str) -> list[int]:
    """Ends of the words of a text, in characters; in scripts without spaces, of each character."""
    ends: list[int] = []
    for match in _WORD.finditer(text):
        word = match.group()
        if any(map(_wide, word)):
            ends += range(match.start() + 1, match.end())
        ends.append(match.end())
    return ends


class SpeechTimeline:
    """Text and speech of one reply as they are produced."""

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.samples = 0
        self._levels: list[FloatArray] = []
        self._rest = np.zeros(0, np.float32)

    def add(self, samples: FloatArray) -> None:
        """Note the next samples, float32 (n,)."""
        self.samples += len(samples)
        frame = int(FRAME_SECONDS * self.sample_rate)
        joined = np.concatenate([self._rest, samples])
        whole = len(joined) // frame * frame
        frames = joined[:whole].reshape(-1, frame)
        self._levels.append(np.sqrt((frames**2).mean(axis=1, dtype=np.float32)))
        self._rest = joined[whole:]

    def voiced_seconds(self, until: float | None = None) -> float:
        """Seconds with a voice in them, in the first `until` seconds or in all of the speech."""
        levels = np.concatenate([np.zeros(0, np.float32), *self._levels])
        if not len(levels):
            return 0.0
        voiced = levels > SILENCE * np.quantile(levels, 0.95)
        count = len(voiced) if until is None else round(until / FRAME_SECONDS)
        return float(voiced[: max(count, 0)].sum()) * FRAME_SECONDS

    def speed(self, text: str) -> float:
        """Typical duration of `text` over that of the voice, when all of it has been spoken."""
        seconds = self.voiced_seconds()
        speed = typical_seconds(text) / seconds if seconds > 0 else USUAL_SPEED
        return min(max(speed, MIN_SPEED), MAX_SPEED)

    def heard(self, text: str, seconds: float, speed: float) -> int:
        """Characters of `text` whose words were heard in the first `seconds` of the speech.

        A word counts once half of it was heard.
        """
        spoken = speed * self.voiced_seconds(seconds)
        heard, before = 0, 0.0
        for end in word_ends(text):
            duration = typical_seconds(text[heard:end])
            if before + duration / 2 > spoken:
                break
            heard, before = end, before + duration
        return heard


@dataclass(frozen=True)
class SpokenReply:
    """A reply that was spoken, as far as it came. `complete`: the Talker ended by itself."""

    text: str
    text_ends: tuple[int, ...]
    """For each token the length of the text once it was decoded, in characters."""
    timeline: SpeechTimeline
    complete: bool
    voice: str

    @property
    def speed(self) -> float:
        """Speed of a complete reply; 1 is typical."""
        return self.timeline.speed(self.text)

    def heard_tokens(self, seconds: float, usual_speed: float) -> int:
        """How many tokens make the words that were heard in the first `seconds` of the speech.

        `usual_speed` is that of the voice, for speech that was not finished.
        """
        speed = self.speed if self.complete else usual_speed
        characters = self.timeline.heard(self.text, seconds, speed)
        if self.complete and characters >= len(self.text):
            return len(self.text_ends)
        wanted = len(self.text[:characters].rstrip())
        before = (count for count, end in enumerate(self.text_ends, 1) if end >= wanted)
        return next(before, len(self.text_ends)) if wanted else 0

    def cut(self, tokens: int) -> "SpokenReply":
        """The reply with its first `tokens` tokens."""
        ends = self.text_ends[:tokens]
        return replace(self, text=self.text[: ends[-1]] if ends else "", text_ends=ends)
