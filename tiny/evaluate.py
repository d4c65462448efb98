"""Evaluation of the finished checkpoint, through the classes of transformers.

    python -m tiny.evaluate [--items 200] [typed picture film spoken "heard film" speech ...]

The speech evaluation runs the full pipeline (Thinker, Talker, DiT, BigVGAN), alternating between
both voices, and transcribes the result. compare.py runs the same evaluation on bundles.
"""

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
from transformers import Qwen2_5OmniForConditionalGeneration

from tiny import exam, scenes, sizes, thinker, vocabulary
from tiny.audio import features
from tiny.paths import CHECKPOINT, WORK, Samples
from tiny.questions import Turn


class Reference:
    """transformers, with the committed weights in float32."""

    def __init__(self) -> None:
        self._model = Qwen2_5OmniForConditionalGeneration.from_pretrained(
            str(CHECKPOINT), torch_dtype=torch.float32
        ).eval()
        special = vocabulary.special()
        self._stop = {"eos_token_id": special.im_end, "pad_token_id": special.end_of_text}

    def answer(self, item: exam.Item, turn: int) -> str:
        one, media = prompt(item, turn)
        ids = torch.tensor([one])
        made = self._model.thinker.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=40,
            do_sample=False,
            **self._stop,
            **media,
        )
        return text_of(made[0, ids.shape[1] :])

    def say(self, question: str, voice: str, seed: int) -> tuple[str, Samples]:
        torch.manual_seed(seed)
        asked = scenes.Asked([], [Turn(question, "")], 0)
        ids = torch.tensor([prompt(exam.Item(asked), 0)[0]])
        made, wave = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            speaker=voice,
            thinker_max_new_tokens=40,
            thinker_do_sample=False,
            thinker_eos_token_id=vocabulary.special().im_end,
            talker_max_new_tokens=400,
            talker_temperature=sizes.TALKER_TEMPERATURE,  # the reference reads it from no file
            talker_eos_token_id=[sizes.CODEC_EOS, sizes.CODEC_PAD],
        )
        return text_of(made[0, ids.shape[1] :]), np.asarray(wave, np.float32)


def text_of(tokens: torch.Tensor) -> str:
    return vocabulary.load().decode(tokens.tolist(), skip_special_tokens=True).strip()


def prompt(item: exam.Item, turn: int) -> tuple[list[int], dict[str, Any]]:
    """Return the token ids up to the start of the reply, and the other inputs of transformers."""
    one = thinker.Conversation()
    begin = 0
    for index, asked in enumerate(item.asked.turns[: turn + 1]):
        begin = len(one.ids)
        if index:
            one.turn(asked)
            continue
        one.turn(
            asked,
            sight=scenes.look_at(item.asked) if item.asked.frames else None,
            sound=None if item.sound is None else features(item.sound),
            spoken=None if item.spoken is None else features(item.spoken),
        )
    learned = (i for i in range(begin, len(one.ids)) if one.labels[i] != thinker.IGNORED)
    media: dict[str, Any] = {}
    for sight in one.sights:
        media["pixel_values_videos" if sight.film else "pixel_values"] = sight.rows
        media["video_grid_thw" if sight.film else "image_grid_thw"] = torch.tensor([sight.grid])
        if sight.film:
            media["video_second_per_grid"] = torch.tensor([thinker.SECONDS])
    for mel in one.sounds:
        media["input_features"] = mel[None]
        media["feature_attention_mask"] = torch.ones(1, mel.shape[1], dtype=torch.long)
        media["use_audio_in_video"] = item.sound is not None and bool(item.asked.frames)
    return one.ids[: next(learned)], media


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    known = [*exam.DRAWS, "speech"]
    parser.add_argument("exams", nargs="*", metavar="exam", help=", ".join(known))
    parser.add_argument("--items", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = Reference()
    path = WORK / "evaluate.json"
    for name in options.exams or known:
        started = time.perf_counter()
        with torch.no_grad():
            if name == "speech":
                scores = exam.speak(model, options.items, "reference")
            else:
                scores = exam.sit(name, model, options.items)
        numbers = "  ".join(f"{key} {value:.4g}" for key, value in scores.items())
        print(f"{name}: {numbers}  ({time.perf_counter() - started:.0f} s)", flush=True)  # noqa: T201
        results = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(results | {name: scores}, indent=2) + "\n")


if __name__ == "__main__":
    main()
