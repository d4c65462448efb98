"""The exam: held-out questions put to the finished checkpoint through transformers' own classes.

    python -m tiny.evaluate [--items 200] [typed picture film speech ...]

An answer counts when it is right word for word. The speech exam goes the whole way, question to
Thinker to Talker to DiT to BigVGAN, in both voices in turn, and listens with the judges.
"""

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import soundfile as sf
import torch
from resemblyzer import VoiceEncoder
from transformers import Qwen2_5OmniForConditionalGeneration

from tiny import judges, questions, scenes, sizes, thinker, vocabulary
from tiny.paths import CHECKPOINT, WORK, Corpus, Samples
from tiny.questions import Turn
from tiny.speech import SPEAKERS, SPEECH
from tiny.voices import SPEECH_RATE, at_rate

Model = Qwen2_5OmniForConditionalGeneration
Scores = dict[str, float]
FOLDER = WORK / "evaluate"


def load() -> Model:
    model = Model.from_pretrained(str(CHECKPOINT), torch_dtype=torch.float32)
    return model.eval()


def prompt(turns: list[Turn], media: tuple[str, int] | None = None) -> torch.Tensor:
    """All turns but the last with their replies, the last without."""
    one = thinker.Conversation()
    one.open()
    begin = 0
    for index, turn in enumerate(turns):
        begin = len(one.ids)
        one.turn(turn, media if index == 0 else None)
    learned = (i for i in range(begin, len(one.ids)) if one.labels[i] != thinker.IGNORED)
    return torch.tensor([one.ids[: next(learned)]])


def media_inputs(asked: scenes.Asked) -> tuple[dict[str, torch.Tensor], tuple[str, int]]:
    pixels, grid = scenes.patches(scenes.render(asked.frames, asked.look))
    tokens = grid[0] * grid[1] * grid[2] // scenes.MERGE**2
    if len(asked.frames) == 1:
        return {"pixel_values": pixels, "image_grid_thw": torch.tensor([grid])}, ("picture", tokens)
    seconds = torch.tensor([2.0 / scenes.FRAMES_A_SECOND])
    return {
        "pixel_values_videos": pixels,
        "video_grid_thw": torch.tensor([grid]),
        "video_second_per_grid": seconds,
    }, ("film", tokens)


def answer(model: Model, ids: torch.Tensor, **media: Any) -> str:
    made = model.thinker.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=40,
        do_sample=False,
        eos_token_id=vocabulary.special().im_end,
        pad_token_id=vocabulary.special().end_of_text,
        **media,
    )
    text = vocabulary.load().decode(made[0, ids.shape[1] :].tolist(), skip_special_tokens=True)
    return text.strip()


def _exam(
    name: str, model: Model, items: int, draw: Callable[[random.Random], scenes.Asked]
) -> Scores:
    """Every turn of a conversation is asked after the right replies to the turns before it."""
    rng = random.Random(f"exam {name}")  # noqa: S311
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    while sum(total.values()) < items:
        asked = draw(rng)
        inputs, media = media_inputs(asked) if asked.frames else ({}, None)
        for index, turn in enumerate(asked.turns):
            kind = "first" if index == 0 else "later"
            told = answer(model, prompt(asked.turns[: index + 1], media), **inputs)
            total[kind] += 1
            right[kind] += told == turn.answer
            if told != turn.answer:
                print(f"    {turn.question!r}: {told!r}, not {turn.answer!r}", flush=True)  # noqa: T201
    scores = {kind: right[kind] / total[kind] for kind in total}
    return {"exact": sum(right.values()) / sum(total.values()), **scores, "items": float(items)}


def typed(model: Model, items: int) -> Scores:
    return _exam(
        "typed", model, items, lambda rng: scenes.Asked([], questions.ask_for("test", rng), 0)
    )


def picture(model: Model, items: int) -> Scores:
    return _exam("picture", model, items, lambda rng: scenes.picture_for("test", rng))


def film(model: Model, items: int) -> Scores:
    return _exam(
        "film", model, items, lambda rng: scenes.film_for("test", rng, rng.choice((2, 3, 4)))
    )


def say(model: Model, ids: torch.Tensor, voice: str) -> tuple[str, Samples]:
    """The reply as text and as sound, by the reference's own generate."""
    attention = torch.ones_like(ids)
    made, wave = model.generate(
        input_ids=ids,
        attention_mask=attention,
        speaker=voice,
        thinker_max_new_tokens=40,
        thinker_do_sample=False,
        thinker_eos_token_id=vocabulary.special().im_end,
        talker_max_new_tokens=400,
        talker_eos_token_id=[sizes.CODEC_EOS, sizes.CODEC_PAD],
    )
    text = vocabulary.load().decode(made[0, ids.shape[1] :].tolist(), skip_special_tokens=True)
    return text.strip(), wave.numpy()


class Likeness:
    """GE2E: is a sound nearer to its own voice than to the other?"""

    def __init__(self) -> None:
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


def speech(model: Model, items: int) -> Scores:
    """Typed questions, spoken replies; the words are judged against the reply's own text."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    rng = random.Random("exam speech")  # noqa: S311
    likeness = Likeness()
    texts: list[str] = []
    heard: dict[str, list[str]] = {"closed": [], "open": []}
    alike = 0
    for index in range(items):
        torch.manual_seed(index)
        voice = SPEAKERS[index % len(SPEAKERS)]
        turns = questions.ask_for("test", rng)[:1]
        text, wave = say(model, prompt(turns), voice)
        if wave.size < SPEECH_RATE // 10:
            wave = np.zeros(SPEECH_RATE // 2, np.float32)
        sf.write(FOLDER / f"{index:03d}-{voice}.wav", wave, SPEECH_RATE)
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
        "nearer to its own voice": alike / items,
        "items": float(items),
    }


EXAMS = {"typed": typed, "picture": picture, "film": film, "speech": speech}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("exams", nargs="*", metavar="exam", help=", ".join(EXAMS))
    parser.add_argument("--items", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load()
    path = WORK / "evaluate.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in options.exams or EXAMS:
        started = time.perf_counter()
        with torch.no_grad():
            results[name] = EXAMS[name](model, options.items)
        numbers = "  ".join(f"{key} {value:.4g}" for key, value in results[name].items())
        print(f"{name}: {numbers}  ({time.perf_counter() - started:.0f} s)", flush=True)  # noqa: T201
        path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
