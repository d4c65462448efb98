"""Stage 6a: a corpus of spoken questions in many voices, and of spoken numbers for videos.

    python -m tiny.hearing [sentences]

Sentences and voices are held out: no speaker of the test part occurs in the training part. Blends
of Kokoro's speakers and `revoice` give more voices than there are synthesizers. Noise, gain, speed
and further vocal tracts are added when a batch is sampled (audio.py).
"""

import multiprocessing
import random
import sys
import time
from collections.abc import Callable

from tiny import grammar, questions, scenes, voices
from tiny.paths import WORK, CorpusWriter, Samples

HEARING = WORK / "hearing"
NUMBERS = WORK / "numbers"
TEST_SHARE = 18
ROUNDS = 2
"""How often each training voice says each number."""
Speaker = Callable[[str, random.Random], Samples]


def _pace(rng: random.Random) -> float:
    return rng.uniform(0.85, 1.2)


def _joe(text: str, rng: random.Random) -> Samples:
    return voices.piper(text, pace=_pace(rng), liveliness=rng.choice((0.0, 0.5, 0.8)))


def _kokoro(*names: str) -> Speaker:
    """Return a speaker; several names give a new random blend at every call."""

    def speak(text: str, rng: random.Random) -> Samples:
        shares = {name: rng.random() ** 2 + 1e-3 for name in names}
        total = sum(shares.values())
        blend = {name: share / total for name, share in shares.items()}
        return voices.kokoro(text, blend, pace=_pace(rng))

    return speak


def _flite(name: str) -> Speaker:
    return lambda text, rng: voices.flite(text, name, pace=_pace(rng))


def _espeak(text: str, rng: random.Random) -> Samples:
    accent = rng.choice(("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan"))
    throat = rng.choice(("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "f5"))
    return voices.espeak(text, f"{accent}+{throat}", pace=_pace(rng))


TRAINING: dict[str, Speaker] = {
    "joe": _joe,
    "kokoro": _kokoro("jf_alpha", "jf_gongitsune", "jm_kumo"),
    "slt": _flite("slt"),
    "awb": _flite("awb"),
    "kal16": _flite("kal16"),
    "espeak": _espeak,
}
WEIGHTS = {"joe": 5, "kokoro": 3, "slt": 4, "awb": 4, "kal16": 2, "espeak": 3}
UNSEEN: dict[str, Speaker] = {
    "jf_nezumi": _kokoro("jf_nezumi"),
    "jf_tebukuro": _kokoro("jf_tebukuro"),
    "rms": _flite("rms"),
}


def sentence(part: str, rng: random.Random) -> str:
    """Return a question in words: about anything, or about a picture or video."""
    while True:
        kind = rng.random()
        if kind < 0.6:
            text = rng.choice(questions.ask(rng, typed=False)).question
        else:
            asked = scenes.picture(rng) if kind < 0.85 else scenes.film(rng)
            text = grammar.capital(rng.choice(asked.turns).question)
        if grammar.held_out(text) == (part == "test"):
            return text


def speak(part: str, rng: random.Random, text: str, name: str | None = None) -> tuple[str, Samples]:
    """Return the name of the speaker and the recording."""
    speakers = TRAINING if part == "train" else UNSEEN
    if name is None:
        name = rng.choices(list(speakers), [WEIGHTS.get(n, 1) for n in speakers])[0]
    samples = voices.level(speakers[name](text, rng))
    if part == "train" and rng.random() < 0.35:
        return f"{name}*", other_throat(samples, rng)
    return name, samples


def other_throat(samples: Samples, rng: random.Random) -> Samples:
    pitch, formants = rng.uniform(0.75, 1.6), rng.uniform(0.88, 1.18)
    return voices.level(voices.revoice(samples, pitch=pitch, formants=formants))


def say_numbers() -> None:
    """Write every number by every voice, for the audio tracks of videos."""
    writer = CorpusWriter(NUMBERS)
    plan = [("train", name, n) for name in TRAINING for n in grammar.NUMBERS * ROUNDS]
    plan += [("test", name, n) for name in UNSEEN for n in grammar.NUMBERS]
    for index, (part, name, number) in enumerate(plan):
        if index >= len(writer.done):
            rng = random.Random(f"number {index}")  # noqa: S311
            voice, samples = speak(part, rng, f"{grammar.capital(number)}.", name)
            writer.add(samples, text=number, voice=voice, held_out=part == "test")


def recording(index: int) -> tuple[str, str, Samples, bool]:
    """Return the sentence, the voice, the samples and whether it is held out."""
    rng = random.Random(index)  # noqa: S311
    part = "test" if index % TEST_SHARE == 0 else "train"
    text = sentence(part, rng)
    name, samples = speak(part, rng, text)
    return text, name, samples, part == "test"


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_500
    writer = CorpusWriter(HEARING)
    started = time.perf_counter()
    begin = len(writer.done)
    with multiprocessing.Pool() as pool:
        made = pool.imap(recording, range(begin, count), chunksize=4)
        for index, (text, voice, samples, held_out) in enumerate(made, begin):
            writer.add(samples, text=text, voice=voice, held_out=held_out)
            if index % 100 == 0:
                print(f"{index}/{count} {time.perf_counter() - started:.0f} s", flush=True)  # noqa: T201
    say_numbers()


if __name__ == "__main__":
    main()
