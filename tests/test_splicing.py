"""Sentences joined from recorded words keep words, phones and frames together."""

import random
from typing import cast

import torch
from tiny.alignment import PHONES, SILENT, Spoken
from tiny.audio import Recordings
from tiny.paths import Utterance
from tiny.splicing import WordBank
from tiny.vocabulary import load

SIL, ONE, TWO = PHONES.index("SIL"), PHONES.index("W"), PHONES.index("T")


class Recorded:
    """Two recordings; the value of each frame is its place, from 100 on in the second."""

    items = (
        Utterance("One two", "slt", 0, 0, held_out=False),
        Utterance("One red", "joe*", 1, 0, held_out=False),
    )

    def power(self, item: Utterance) -> torch.Tensor:
        return (torch.arange(30.0) + 100 * item.start).expand(4, -1)


LINES: dict[int, list[Spoken]] = {
    0: [("", [(SIL, 5)]), ("one", [(ONE, 6), (ONE, 4)]), ("two", [(TWO, 12)]), ("", [(SIL, 3)])],
    1: [("one", [(ONE, 9)]), ("red", [(TWO, 9)])],
}


def bank() -> WordBank:
    return WordBank(cast("Recordings", Recorded()), LINES)


def test_words_come_with_their_frames_phones_and_tokens() -> None:
    two = load().encode(" two").ids
    for seed in range(40):
        made = bank().speak("Two, one two.", random.Random(seed))
        assert made is not None
        log, track = made
        assert log.shape == (4, len(track.phones)) and len(track.tokens) == len(track.phones)
        assert log.max() < 100  # no word of a voice that sounds different in each recording
        sure = torch.isin(log[0], torch.arange(15.0, 27.0))  # frames of "two", without its edges
        inside = sure & (track.phones == TWO)
        assert inside.sum() == 24
        assert set(track.tokens[inside].tolist()) == set(two)
        silent = log[0] < 0
        assert (track.tokens[silent] == SILENT).all() and (track.phones[silent] == SIL).all()


def test_a_sentence_with_a_word_that_no_voice_has_said_is_refused() -> None:
    assert bank().speak("One blue", random.Random(0)) is None
    assert bank().speak("One red", random.Random(0)) is None
