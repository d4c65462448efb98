"""When each word of a reply is spoken: an estimate, for cutting a reply to what was heard.

The Talker reads 50 rows of text a second, far ahead of its voice, so codes do not tell which word
is being spoken. What is known is the text, the samples, and where the samples are silent. The
estimate spreads the syllables of the text evenly over the voiced part of the speech. If the speech
was not finished, its length is predicted from the speaking rate of earlier replies.
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
DEFAULT_RATE = 4.6
"""Syllables per second of voice before any reply was finished."""
MIN_WEIGHT = 0.25
"""Syllables of a word that has none: a symbol."""
MIN_RATE, MAX_RATE = 2.0, 12.0

_VOWELS = re.compile(r"[aeiouy]+", re.IGNORECASE)
_WORD = re.compile(r"\S+\s*")


def syllables(text: str) -> float:
    """Roughly how many syllables a text has when it is read aloud, in any script."""
    total = 0.0
    for word in re.findall(r"\w+", text):
        plain = unicodedata.normalize("NFKD", word)
        latin = "".join(c for c in plain if c.isascii() and c.isalpha())
        others = [c for c in word if c.isalpha() and not _latin(c)]
        wide = sum(unicodedata.east_asian_width(c) in "WF" for c in others)
        digits = sum(c.isdigit() for c in word)
        total += wide + (len(others) - wide) / 2.5 + 1.4 * digits
        if latin:
            total += max(1, len(_VOWELS.findall(latin)) - _silent_endings(latin))
    return total


def _latin(character: str) -> bool:
    return unicodedata.normalize("NFKD", character)[0].isascii()


def _silent_endings(word: str) -> int:
    """1 for an English word that ends in a silent e."""
    word = word.lower()
    return int(len(word) > 2 and word.endswith("e") and not word.endswith(("le", "ee", "ye")))


def word_ends(text: str) -> list[int]:
    """Ends of the words of a text, in characters; in scripts without spaces, of each character."""
    ends: list[int] = []
    for match in _WORD.finditer(text):
        word = match.group()
        if any(unicodedata.east_asian_width(c) in "WF" for c in word):
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

    def rate(self, text: str) -> float:
        """Syllables per second of voice when all of `text` has been spoken."""
        seconds = self.voiced_seconds()
        rate = syllables(text) / seconds if seconds > 0 else DEFAULT_RATE
        return min(max(rate, MIN_RATE), MAX_RATE)

    def heard(self, text: str, seconds: float, rate: float) -> int:
        """Characters of `text` whose words were heard in the first `seconds` of the speech.

        A word counts once half of it was heard.
        """
        spoken = rate * self.voiced_seconds(seconds)
        heard, before = 0, 0.0
        for end in word_ends(text):
            weight = max(syllables(text[heard:end]), MIN_WEIGHT)
            if before + weight / 2 > spoken:
                break
            heard, before = end, before + weight
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
    def rate(self) -> float:
        """Syllables per second of voice."""
        return self.timeline.rate(self.text)

    def heard_tokens(self, seconds: float, usual_rate: float) -> int:
        """How many tokens make the words that were heard in the first `seconds` of the speech.

        `usual_rate` is the voice's speaking rate, for speech that was not finished.
        """
        rate = self.rate if self.complete else usual_rate
        characters = self.timeline.heard(self.text, seconds, rate)
        if self.complete and characters >= len(self.text):
            return len(self.text_ends)
        wanted = len(self.text[:characters].rstrip())
        before = (count for count, end in enumerate(self.text_ends, 1) if end >= wanted)
        return next(before, len(self.text_ends)) if wanted else 0

    def cut(self, tokens: int) -> "SpokenReply":
        """The reply with its first `tokens` tokens."""
        ends = self.text_ends[:tokens]
        return replace(self, text=self.text[: ends[-1]] if ends else "", text_ends=ends)
