"""Golden vectors of docs/bundle.md, computed by the Kotlin engine from the recorded inputs."""

import io
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Picture
from tests.android.engine import Engine

from omni_runtime.golden import vectors
from omni_runtime.golden.graph_cases import REPLY_TOKENS, SPEECH_STEPS
from omni_runtime.golden.vectors import Case, File, Tensor, Values


def differences(engine: Engine, folder: Path) -> Iterator[str]:
    """Yield a line for each value of the vectors in `folder` that the engine computes otherwise."""
    for name, case in vectors.read(folder).items():
        yield from vectors.differences(name, case.outputs, computed(engine, name, case))


def computed(engine: Engine, name: str, case: Case) -> Values:
    """Compute the outputs of one case."""
    inputs, kind = given(case.inputs), name.partition(".")[0]
    return ASKED.get(kind, lambda engine, inputs: engine.ask(kind, **inputs))(engine, inputs)


def _text(engine: Engine, inputs: Values) -> Values:
    ids = engine.ask("tokenize", texts=inputs["texts"])
    return {"ids": ids, "pieces": engine.ask("decode", ids=ids)}


def _picture(engine: Engine, inputs: Values) -> Values:
    clips = engine.ask("clips", clips=inputs["clips"])
    size = engine.ask("sizes", sizes=[inputs["small"].shape[:2]], video_frames=[])["image_sizes"][0]
    return {
        **engine.ask("sizes", sizes=inputs["sizes"], video_frames=inputs["video_frames"]),
        **engine.ask("picture", picture=inputs["picture"]),
        "clip_frames": [frames[:40] for frames, _ in clips],
        "clip_counts": [len(frames) for frames, _ in clips],
        "clip_rates": [rate for _, rate in clips],
        "small_resized": engine.ask("resize", picture=inputs["small"], size=size),
    }


def given(value: Any) -> Any:
    """Replace tensors by arrays, and sounds and pictures by their samples and pixels."""
    if isinstance(value, Tensor):
        return value.values
    if isinstance(value, File) and value.name.endswith(".wav"):
        return sound(value.data)
    if isinstance(value, File):
        return np.asarray(Picture.open(io.BytesIO(value.data)).convert("RGB"))
    if isinstance(value, dict):
        return {key: given(one) for key, one in value.items()}
    return [given(one) for one in value] if isinstance(value, list) else value


def sound(data: bytes) -> Values:
    """Read a wav file of 16 bits."""
    with wave.open(io.BytesIO(data)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        return {"samples": samples.astype(np.float32) / 32768, "rate": file.getframerate()}


ASKED: dict[str, Callable[[Engine, Values], Values]] = {
    "text": _text,
    "picture": _picture,
    "audio_encoder": lambda engine, inputs: {"rows": engine.ask("encode_sound", **inputs)},
    "vision_encoder": lambda engine, inputs: {"rows": engine.ask("encode_picture", **inputs)},
    "thinker": lambda engine, inputs: engine.ask("thinker", steps=REPLY_TOKENS, **inputs),
    "talker": lambda engine, inputs: engine.ask("talker", steps=SPEECH_STEPS, **inputs),
    "tables": lambda engine, inputs: engine.ask("tables", ids=inputs),
}
"""How a case is asked for; the others are requests of the same name."""
