"""The exam's questions, the same for everybody who sits it: the reference and every bundle.

Held out are sentences, and voices:
spoken questions and what is said in films come from speakers that training never heard, with mild
noise. An answer counts when it is right word for word; the turns of a conversation are asked after
the right replies to the turns before.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import soundfile as sf

from tiny import grammar, hearing, judges, questions, scenes
from tiny.audio import RATE
from tiny.paths import WORK, Corpus, Samples
from tiny.speech import SPEAKERS, SPEECH
from tiny.voices import SPEECH_RATE, at_rate

FOLDER = WORK / "exam"
NOISE = 0.003
"""Of spoken questions: about 27 dB below the voice."""


@dataclass(frozen=True)
class Item:
    """A conversation about a scene (or none); 16 kHz recordings where something is heard."""

    asked: scenes.Asked
    spoken: Samples | None = None
    """The first question, instead of its text."""
    sound: Samples | None = None
    """The sound of the film."""


class Examinee(Protocol):
    """Whoever sits the exam."""

    def answer(self, item: Item, turn: int) -> str:
        """The reply to one turn, after the right replies to those before."""
        ...

    def say(self, question: str, voice: str, seed: int) -> tuple[str, Samples]:
        """The reply to a typed question, and its sound at 24 kHz."""
        ...


def _recording(name: str, text: str, rng: random.Random) -> Samples:
    """`text` by an unseen speaker; kept on disk, so that every examinee hears the same."""
    path = FOLDER / f"{name}.wav"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        samples = at_rate(hearing.speak("test", rng, text)[1], SPEECH_RATE, RATE)
        noise = np.random.default_rng(rng.randrange(1 << 30)).standard_normal(len(samples))
        sf.write(path, samples + NOISE * noise, RATE)
    return np.asarray(sf.read(path, dtype="float32")[0], np.float32)


def _film(rng: random.Random, word: str | None = None) -> scenes.Asked:
    return scenes.film_for("test", rng, rng.choice((2, 3, 4)), word=word)


def _spoken(rng: random.Random, index: int) -> Item:
    """Half about nothing seen, the others about pictures and films."""
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


def _heard(rng: random.Random, index: int) -> Item:
    word = rng.choice(grammar.NUMBERS)
    asked = _film(rng, word)
    return Item(asked, sound=_recording(f"heard-{index:03d}", f"{grammar.capital(word)}.", rng))


DRAWS: dict[str, Callable[[random.Random, int], Item]] = {
    "typed": lambda rng, _: Item(scenes.Asked([], questions.ask_for("test", rng), 0)),
    "picture": lambda rng, _: Item(scenes.picture_for("test", rng)),
    "film": lambda rng, _: Item(_film(rng)),
    "spoken": _spoken,
    "heard film": _heard,
}


def items(kind: str) -> Iterator[Item]:
    """Without end, and always the same ones."""
    index = 0
    while True:
        yield DRAWS[kind](random.Random(f"exam {kind} {index}"), index)  # noqa: S311
        index += 1


def sit(kind: str, examinee: Examinee, count: int) -> dict[str, float]:
    """The share of right answers among the first turns, the later ones and all, `count` at least.

    Of spoken questions only the first turn, which is the spoken one, is put; its shares are
    of questions about nothing seen ("alone") and about pictures and films ("seen").
    """
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for item in items(kind):
        turns = item.asked.turns[:1] if kind == "spoken" else item.asked.turns
        for index, turn in enumerate(turns):
            part = "later" if index else "first"
            if kind == "spoken":
                part = "seen" if item.asked.frames else "alone"
            told = examinee.answer(item, index)
            total[part] += 1
            right[part] += told == turn.answer
            if told != turn.answer:
                print(f"    {turn.question!r}: {told!r}, not {turn.answer!r}", flush=True)  # noqa: T201
        if sum(total.values()) >= count:
            break
    shares = {part: right[part] / total[part] for part in sorted(total)}
    return {"exact": sum(right.values()) / sum(total.values()), **shares, "items": total.total()}


class Likeness:
    """GE2E: is a sound nearer to its own voice than to the other?"""

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
    """Typed questions, spoken replies; the words are judged against the reply's own text."""
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
