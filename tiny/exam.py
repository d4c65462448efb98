"""The evaluation: the same questions for the reference and for every bundle.

Sentences and voices are held out: the speakers of questions and videos do not occur in training.
"template" has ways of asking that do not occur either. Recordings have mild noise. An answer counts
when every word is right. Later turns of a conversation are asked after the right replies to the
turns before. No conversation occurs twice, since its second answer would be the first one.
"""

import hashlib
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import soundfile as sf

from tiny import grammar, hearing, judges, phrases, questions, scenes, templates
from tiny.audio import RATE
from tiny.paths import WORK, Corpus, Samples
from tiny.speech import SPEAKERS, SPEECH
from tiny.voices import SPEECH_RATE, at_rate

FOLDER = WORK / "exam"
NOISE = 0.003
"""Amplitude of the noise in spoken questions: about 27 dB below the speech."""


@dataclass(frozen=True)
class Item:
    """A conversation about a scene or none; recordings at 16 kHz where it has audio."""

    asked: scenes.Asked
    spoken: Samples | None = None
    """Recording of the first question, in place of its text."""
    sound: Samples | None = None
    """Audio track of the video, or a recording before the written question."""


class Examinee(Protocol):
    """A model under evaluation."""

    def answer(self, item: Item, turn: int) -> str:
        """Return the reply to one turn, after the right replies to the turns before."""
        ...

    def say(self, question: str, voice: str, seed: int) -> tuple[str, Samples]:
        """Return the reply to a typed question, and its speech at 24 kHz."""
        ...


def _recording(name: str, text: str, rng: random.Random) -> Samples:
    """Return `text` by a held-out speaker; cached on disk, so that every model gets the same."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]  # the grammar may change
    path = FOLDER / f"{name}-{digest}.wav"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        samples = at_rate(hearing.speak("test", rng, text)[1], SPEECH_RATE, RATE)
        noise = np.random.default_rng(rng.randrange(1 << 30)).standard_normal(len(samples))
        sf.write(path, samples + NOISE * noise, RATE)
    return np.asarray(sf.read(path, dtype="float32")[0], np.float32)


def _film(rng: random.Random, word: str | None = None) -> scenes.Asked:
    return scenes.film_for("test", rng, rng.choice((2, 3, 4)), word=word)


def _spoken(rng: random.Random, index: int) -> Item:
    """Return a spoken question: half without a scene, half about pictures and videos."""
    while True:
        kind = index % 4
        if kind < 2:
            asked = scenes.Asked([], questions.ask(rng, typed=False), 0)
        else:
            asked = scenes.picture(rng) if kind == 2 else scenes.film(rng)
        if grammar.held_out(grammar.capital(asked.turns[0].question)):
            break
    text = grammar.capital(asked.turns[0].question)
    return Item(asked, spoken=_recording(f"spoken-{index:03d}", text, rng))


def _worse(spoil: Callable[[Samples], Samples]) -> Callable[[random.Random, int], Item]:
    """Return a draw of the spoken questions with worse recordings."""

    def draw(_: random.Random, index: int) -> Item:
        item = _spoken(random.Random(f"exam spoken {index}"), index)  # noqa: S311
        assert item.spoken is not None
        return replace(item, spoken=spoil(item.spoken))

    return draw


def telephone(samples: Samples) -> Samples:
    """Return the recording without what a sampling rate of 8 kHz loses."""
    return at_rate(at_rate(samples, RATE, 8_000), 8_000, RATE)


def noisy(samples: Samples) -> Samples:
    """Return the recording with white noise 10 dB below it."""
    noise = np.random.default_rng(len(samples)).standard_normal(len(samples)).astype(np.float32)
    loud = np.sqrt(np.mean(samples**2) / 10)
    return np.asarray(samples + noise * np.float32(loud), np.float32)


def _number(rng: random.Random, index: int) -> Item:
    word = rng.choice(grammar.NUMBERS)
    turn = questions.Turn(rng.choice(phrases.SAID), grammar.you_said(word))
    sound = _recording(f"number-{index:03d}", f"{grammar.capital(word)}.", rng)
    return Item(scenes.Asked([], [turn], 0), sound=sound)


def _heard(rng: random.Random, index: int) -> Item:
    word = rng.choice(grammar.NUMBERS)
    asked = _film(rng, word)
    return Item(asked, sound=_recording(f"heard-{index:03d}", f"{grammar.capital(word)}.", rng))


DRAWS: dict[str, Callable[[random.Random, int], Item]] = {
    "typed": lambda rng, _: Item(scenes.Asked([], questions.ask_for("test", rng), 0)),
    "template": lambda rng, index: Item(scenes.Asked([], [templates.ask(rng, index)], 0)),
    "template, blind": lambda rng, index: Item(
        scenes.Asked([], [templates.ask(rng, index, templates.BLIND)], 0)
    ),
    "picture": lambda rng, _: Item(scenes.picture_for("test", rng)),
    "film": lambda rng, _: Item(_film(rng)),
    "spoken": _spoken,
    "spoken, telephone": _worse(telephone),
    "spoken, noisy": _worse(noisy),
    "number": _number,
    "heard film": _heard,
}


def items(kind: str) -> Iterator[Item]:
    """Yield items without end, all different, in the same order on every call."""
    seen: set[str] = set()
    for index in itertools.count():
        item = DRAWS[kind](random.Random(f"exam {kind} {index}"), index)  # noqa: S311
        question = repr(item.asked)
        if item.spoken is None and item.sound is None:  # no recording is made twice
            if question in seen:
                continue
            seen.add(question)
        yield item


def sit(kind: str, examinee: Examinee, count: int) -> dict[str, float]:
    """Return the share of right answers in first turns, in later turns and in all turns.

    "wrong" is the share of wrong answers that do not decline.

    Run at least `count` turns. For spoken questions only the first turn is asked. Their shares are
    "alone" (without a scene) and "seen" (about pictures and videos).
    """
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    wrong = 0
    for item in items(kind):
        turns = item.asked.turns[:1] if item.spoken is not None else item.asked.turns
        for index, turn in enumerate(turns):
            part = "later" if index else "first"
            if item.spoken is not None:
                part = "seen" if item.asked.frames else "alone"
            told = examinee.answer(item, index)
            total[part] += 1
            right[part] += told == turn.answer
            wrong += told not in (turn.answer, grammar.UNKNOWN, grammar.UNCLEAR)
            if told != turn.answer:
                print(f"    {turn.question!r}: {told!r}, not {turn.answer!r}", flush=True)  # noqa: T201
        if sum(total.values()) >= count:
            break
    shares = {part: right[part] / total[part] for part in sorted(total)}
    asked = total.total()
    return {"exact": right.total() / asked, **shares, "wrong": wrong / asked, "items": asked}


class Likeness:
    """Speaker verification (GE2E): is a recording closer to its own voice than to the other?"""

    def __init__(self) -> None:
        from resemblyzer import VoiceEncoder  # noqa: PLC0415 - slow to import

        self._encoder = VoiceEncoder("cpu", verbose=False)
        corpus = Corpus(SPEECH)
        self._voices = {}
        for voice in SPEAKERS:
            own = [i for i in corpus.utterances if i.voice == voice and not i.held_out][:12]
            self._voices[voice] = np.mean([self._embed(corpus.samples(i)) for i in own], 0)

    def _embed(self, samples: Samples) -> Samples:
        heard = at_rate(samples, SPEECH_RATE, judges.HEARING_RATE)
        return np.asarray(self._encoder.embed_utterance(heard), np.float32)

    def right(self, samples: Samples, voice: str) -> bool:
        found = self._embed(samples)
        near = {name: float(found @ mean) for name, mean in self._voices.items()}
        return max(near, key=lambda name: near[name]) == voice


def speak(examinee: Examinee, count: int, folder: str) -> dict[str, float]:
    """Run typed questions with spoken replies; score the speech against the reply's text."""
    place = FOLDER / folder
    place.mkdir(parents=True, exist_ok=True)
    likeness = Likeness()
    texts: list[str] = []
    heard: dict[str, list[str]] = {"closed": [], "open": []}
    alike = 0
    for index, item in zip(range(count), items("typed"), strict=False):
        voice = SPEAKERS[index % len(SPEAKERS)]
        text, wave = examinee.say(item.asked.turns[0].question, voice, index)
        if wave.size < SPEECH_RATE // 10:
            wave = np.zeros(SPEECH_RATE // 2, np.float32)
        sf.write(place / f"{index:03d}-{voice}.wav", wave, SPEECH_RATE)
        texts.append(text)
        heard["closed"].append(judges.sphinx(wave))
        heard["open"].append(judges.whisper(wave))
        alike += likeness.right(wave, voice)
        if judges.words(heard["closed"][-1]) != judges.words(text):
            both = f"{heard['closed'][-1]!r} / {heard['open'][-1]!r}"
            print(f"    {voice} {text!r}: {both}", flush=True)  # noqa: T201
    control = judges.rotated(texts)
    return {
        "closed WER": judges.word_error_rate(heard["closed"], texts),
        "open WER": judges.word_error_rate(heard["open"], texts),
        "closed WER, rotated": judges.word_error_rate(heard["closed"], control),
        "open WER, rotated": judges.word_error_rate(heard["open"], control),
        "nearer to its own voice": alike / count,
        "items": float(count),
    }
