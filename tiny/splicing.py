"""New sentences from recorded words, for the ears.

Ears that are trained on whole recordings learn the sentences by heart. Joining words of one voice
gives recordings of sentences that nobody spoke.
"""

import random
from collections import defaultdict
from dataclasses import dataclass

import torch

from tiny.alignment import PHONES, Spoken, Track, plain
from tiny.audio import FLOOR, Recordings
from tiny.paths import Utterance

UNEVEN = ("*", "espeak")
"""Parts of the names of voices that sound different in each recording, or are aligned badly."""
EDGE = 2
"""Frames of the neighbouring sounds that a word takes along, at most: they overlap."""
PAUSE = 12
"""Longest pause between two words, in frames."""
LONG_PAUSE = 80
"""The same, in one sentence of ten: the speaker hesitates."""
AROUND = 60
"""Longest silence before and after a sentence, in frames."""


@dataclass(frozen=True)
class Word:
    """A word inside a recording: its frames, and the phones with their durations in frames."""

    item: Utterance
    begin: int
    end: int
    phones: list[tuple[int, int]]


class WordBank:
    """The aligned words of each voice of a corpus."""

    def __init__(self, recordings: Recordings, lines: dict[int, list[Spoken]]) -> None:
        self._recordings = recordings
        self._words: dict[str, dict[str, list[Word]]] = defaultdict(lambda: defaultdict(list))
        for item in recordings.items:
            if any(part in item.voice for part in UNEVEN):
                continue
            place = 0
            for word, phones in lines[item.start]:
                end = place + sum(count for _, count in phones)
                if word:
                    self._words[item.voice][word].append(Word(item, place, end, phones))
                place = end
        self.voices = sorted(self._words)

    def speak(self, text: str, rng: random.Random) -> tuple[torch.Tensor, Track] | None:
        """Return log mel power (bins, frames) of the text by one voice, and its alignment.

        None if no voice has said all of its words.
        """
        wanted = plain(text).split()
        able = [voice for voice in self.voices if all(w in self._words[voice] for w in wanted)]
        if not able:
            return None
        return self._joined(wanted, rng.choice(able), rng)

    def babble(self, words: int, rng: random.Random) -> torch.Tensor:
        """Return log mel power (bins, frames) of words in random order, by one voice."""
        voice = rng.choice(self.voices)
        wanted = rng.choices(sorted(self._words[voice]), k=words)
        return self._joined(wanted, voice, rng)[0]

    def _joined(
        self, wanted: list[str], voice: str, rng: random.Random
    ) -> tuple[torch.Tensor, Track]:
        known = self._words[voice]
        pieces: list[torch.Tensor] = []
        spoken: list[Spoken] = []
        longest = LONG_PAUSE if rng.random() < 0.1 else PAUSE
        for place, text_word in enumerate(wanted):
            if place and rng.random() < 0.3:
                self._silence(rng.randint(1, longest), pieces, spoken)
            self._say(text_word, rng.choice(known[text_word]), rng, pieces, spoken)
        if rng.random() < 0.5:
            self._silence(rng.randint(1, AROUND), pieces, spoken)
        if rng.random() < 0.5:
            self._silence(rng.randint(1, AROUND), pieces, spoken)
            pieces, spoken = [pieces[-1], *pieces[:-1]], [spoken[-1], *spoken[:-1]]
        return torch.cat(pieces, 1), Track.of(spoken)

    @staticmethod
    def _silence(frames: int, pieces: list[torch.Tensor], spoken: list[Spoken]) -> None:
        pieces.append(torch.full((len(pieces[-1]), frames), FLOOR))
        spoken.append(("", [(PHONES.index("SIL"), frames)]))

    def _say(
        self,
        text: str,
        word: Word,
        rng: random.Random,
        pieces: list[torch.Tensor],
        spoken: list[Spoken],
    ) -> None:
        log = self._recordings.power(word.item)
        before = min(rng.randint(0, EDGE), word.begin)
        after = max(0, min(rng.randint(0, EDGE), log.shape[1] - word.end))
        pieces.append(log[:, word.begin - before : word.end + after])
        length = pieces[-1].shape[1]
        phones = [*word.phones]
        phones[0] = (phones[0][0], phones[0][1] + before)
        rest = length - sum(count for _, count in phones)  # a recording may end inside its word
        phones[-1] = (phones[-1][0], phones[-1][1] + rest)
        spoken.append((text, phones))
