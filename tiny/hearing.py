"""Stage 6a: spoken questions in many voices, to teach the ears.

    python -m tiny.hearing [sentences]

Held out are sentences and voices: whoever speaks in the test part speaks nowhere in the training
part. `revoice` makes further speakers of the training voices, so the ears hear more throats than
there are synthesizers; noise, gain and speed are added when a batch is drawn (ears.py).
"""

import random
import sys
import time
from collections.abc import Callable

from tiny import grammar, questions, scenes, voices
from tiny.paths import WORK, CorpusWriter, Samples

HEARING = WORK / "hearing"
TEST_SHARE = 10
Speaker = Callable[[str, float], Samples]


def _kokoro(name: str) -> Speaker:
    return lambda text, pace: voices.kokoro(text, name, pace=pace)


def _flite(name: str) -> Speaker:
    return lambda text, pace: voices.flite(text, name, pace=pace)


def _espeak(variant: str) -> Speaker:
    return lambda text, pace: voices.espeak(text, variant, pace=pace)


TRAINING: dict[str, Speaker] = {
    "joe": lambda text, pace: voices.piper(text, pace=pace),
    "jf_alpha": _kokoro("jf_alpha"),
    "jf_gongitsune": _kokoro("jf_gongitsune"),
    "jm_kumo": _kokoro("jm_kumo"),
    "slt": _flite("slt"),
    "kal16": _flite("kal16"),
    "awb": _flite("awb"),
    "espeak-m1": _espeak("en-us+m1"),
    "espeak-f2": _espeak("en-gb+f2"),
}
UNSEEN: dict[str, Speaker] = {
    "jf_nezumi": _kokoro("jf_nezumi"),
    "jf_tebukuro": _kokoro("jf_tebukuro"),
    "rms": _flite("rms"),
}
WEIGHTS = {"joe": 6, "jf_alpha": 4, "jf_gongitsune": 4, "jm_kumo": 5, "slt": 3, "awb": 2}


def sentence(part: str, rng: random.Random) -> str:
    """A question in words: about anything, or about a picture or film."""
    while True:
        kind = rng.random()
        if kind < 0.6:
            text = rng.choice(questions.ask(rng, typed=False)).question
        else:
            asked = scenes.picture(rng) if kind < 0.85 else scenes.film(rng)
            text = grammar.capital(rng.choice(asked.turns).question)
        if grammar.held_out(text) == (part == "test"):
            return text


def speak(part: str, rng: random.Random, text: str) -> tuple[str, Samples]:
    """The name of the speaker and what was said."""
    speakers = TRAINING if part == "train" else UNSEEN
    name = rng.choices(list(speakers), [WEIGHTS.get(n, 1) for n in speakers])[0]
    samples = voices.level(speakers[name](text, rng.uniform(0.85, 1.2)))
    if part == "train" and rng.random() < 0.5:
        pitch, formants = rng.uniform(0.75, 1.6), rng.uniform(0.88, 1.18)
        samples = voices.level(voices.revoice(samples, pitch=pitch, formants=formants))
        name = f"{name}*"
    return name, samples


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 6_000
    writer = CorpusWriter(HEARING)
    started = time.perf_counter()
    for index in range(len(writer.done), count):
        rng = random.Random(index)  # noqa: S311
        part = "test" if index % TEST_SHARE == 0 else "train"
        text = sentence(part, rng)
        name, samples = speak(part, rng, text)
        writer.add(samples, text=text, voice=name, held_out=part == "test")
        if index % 100 == 0:
            print(f"{index}/{count} {time.perf_counter() - started:.0f} s", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
