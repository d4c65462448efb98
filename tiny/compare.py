"""Accuracy of recipes, presets and streaming: the evaluation of exam.py, run on bundles.

    python -m tiny.compare [--items 200] [--recipes fp32 int8 int4] [--only typed speech ...]
        [--presets faithful balanced fast] [--kv-cache int8]

Every bundle is exported from the committed checkpoint and run through the runtime, with media as
files. Each result is written as soon as it is measured, so a stopped run resumes.
"""

import argparse
import io
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import av
import numpy as np
import soundfile as sf
from numpy.typing import NDArray
from PIL import Image as Picture

from omni_runtime.bundle.contracts import CacheType
from omni_runtime.conversation import Conversation
from omni_runtime.engine.chunk_scheduler import ChunkPolicy
from omni_runtime.engine.session import SessionOptions
from omni_runtime.events import AudioDelta, TextDelta
from omni_runtime.inputs.messages import Audio, ContentPart, Image, Message, Text, Video
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, SpeechOptions
from tiny import exam, scenes
from tiny.audio import RATE
from tiny.paths import HERE, WORK, Samples

RECIPES = ("fp32", "int8", "int4")
PRESETS = ("faithful", "balanced", "fast")
RESULTS = WORK / "compare.json"
INT8_CACHE = ", int8 cache"
"""Suffix of the name of an evaluation that ran with this KV cache."""


class Bundle:
    """A bundle as the model under evaluation."""

    def __init__(
        self, model: Model, preset: str = "balanced", chunks: ChunkPolicy = "fixed"
    ) -> None:
        self._model, self._preset = model, preset
        self._chunks: ChunkPolicy = chunks

    def answer(self, item: exam.Item, turn: int) -> str:
        conversation = Conversation(self._model)
        for index, asked in enumerate(item.asked.turns[: turn + 1]):
            content: list[ContentPart] = [*media(item)] if index == 0 else []
            if index or item.spoken is None:
                content.append(Text(asked.question))
            if index < turn:
                conversation.messages.append(Message("user", content))
                conversation.messages.append(Message("assistant", [Text(asked.answer)]))
        events = conversation.send(content, ReplyOptions(speech=None, max_tokens=40))
        return "".join(e.text for e in events if isinstance(e, TextDelta)).strip()

    def say(self, question: str, voice: str, seed: int) -> tuple[str, Samples]:
        options = ReplyOptions(SpeechOptions(voice, self._preset, chunks=self._chunks), seed=seed)
        text, sound = "", [np.zeros(0, np.float32)]
        for event in Conversation(self._model).send(question, options):
            match event:
                case TextDelta(delta):
                    text += delta
                case AudioDelta(samples):
                    sound.append(samples)
                case _:
                    pass
        return text.strip(), np.concatenate(sound)


def media(item: exam.Item) -> list[ContentPart]:
    """Return the media of an item as files: PNG, WAV, and lossless video."""
    parts: list[ContentPart] = []
    frames = scenes.render(item.asked.frames, item.asked.look) if item.asked.frames else []
    if len(frames) == 1:
        file = io.BytesIO()
        Picture.fromarray(frames[0]).save(file, "png")
        parts.append(Image(file.getvalue()))
    elif frames:
        parts.append(Video(film(frames, item.sound)))
    if item.spoken is not None:
        file = io.BytesIO()
        sf.write(file, item.spoken, RATE, format="wav", subtype="FLOAT")
        parts.append(Audio(file.getvalue()))
    elif item.sound is not None and not frames:
        parts.append(Audio((item.sound, RATE)))
    return parts


def film(frames: list[NDArray[np.uint8]], sound: Samples | None) -> bytes:
    """Encode a Matroska file with two frames per second."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        pictures = container.add_stream("ffv1", rate=scenes.FRAMES_A_SECOND)
        pictures.width, pictures.height, pictures.pix_fmt = scenes.SIDE, scenes.SIDE, "bgr0"
        voice = container.add_stream("pcm_f32le", rate=RATE) if sound is not None else None
        for frame in frames:
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(pictures.encode(None))
        if voice is not None and sound is not None:
            clip = av.AudioFrame.from_ndarray(sound[None], "flt", "mono")
            clip.sample_rate = RATE
            container.mux(voice.encode(clip))
            container.mux(voice.encode(None))
    return file.getvalue()


def bundle(recipe: str) -> Path:
    """Export the bundle unless it exists. After a change of weights, delete it by hand."""
    from omni_export.cli import main as export  # noqa: PLC0415 - torch only when it is needed

    folder = WORK / "bundles" / recipe
    if not (folder / "manifest.json").exists():
        export(["--model", str(HERE / "checkpoint"), "--quant", recipe, "--output", str(folder)])
    return folder


def cells(only: set[str], presets: Sequence[str] = PRESETS) -> list[tuple[str, str, str]]:
    """Return (evaluation, preset, chunk policy); only speech has the latter two."""
    found = [(name, "", "") for name in exam.DRAWS]
    found += [("speech", *pair) for pair in itertools.product(presets, ("streamed", "whole"))]
    return [cell for cell in found if not only or cell[0] in only]


def measure(
    recipe: str, cell: tuple[str, str, str], count: int, cache: CacheType
) -> dict[str, float]:
    name, preset, how = cell
    model = Model(bundle(recipe), SessionOptions(kv_cache=cache))
    if name != "speech":
        return exam.sit(name, Bundle(model), count)
    examinee = Bundle(model, preset, "whole" if how == "whole" else "fixed")
    return exam.speak(examinee, count, f"{recipe}-{preset}-{how}-{cache}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--only", nargs="+", default=())
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--kv-cache", choices=get_args(CacheType), default="float32")
    options = parser.parse_args()
    for recipe in options.recipes:
        for cell in cells(set(options.only), options.presets):
            key = " ".join((recipe, *cell)).strip()
            key += INT8_CACHE if options.kv_cache == "int8" else ""
            results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            if key in results:
                continue
            started = time.perf_counter()
            scores = measure(recipe, cell, options.items, options.kv_cache)
            numbers = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
            seconds = time.perf_counter() - started
            print(f"{key}: {numbers}  ({seconds:.0f} s)", flush=True)  # noqa: T201
            results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            RESULTS.write_text(json.dumps(results | {key: scores}, indent=2) + "\n")


if __name__ == "__main__":
    main()
