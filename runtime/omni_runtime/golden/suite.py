"""All golden vectors of a bundle: making them, and checking a bundle against them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from omni_runtime.bundle.manifest import FILE_NAME
from omni_runtime.checksums import sha256_of
from omni_runtime.engine.session import SessionOptions
from omni_runtime.golden import graph_cases as graphs
from omni_runtime.golden import text_cases as texts
from omni_runtime.golden.vectors import Case, Values, differences, read, write
from omni_runtime.model import Model


@dataclass(frozen=True)
class Recipe:
    """How to make the inputs and the outputs of one case, and what the bundle must have for it."""

    inputs: Callable[[Model, dict[str, Case]], Values]
    outputs: Callable[[Model, Values], Values]
    needs: tuple[str, ...] = ()


HEARS, SEES, SPEAKS = ("audio",), ("vision",), ("speech",)

RECIPES = {
    "text": Recipe(texts.texts, texts.text_ids),
    "prompt.text": Recipe(texts.plain, texts.prompt),
    "prompt.special_tokens": Recipe(texts.special, texts.prompt),
    "prompt.second_turn": Recipe(texts.second_turn, texts.prompt),
    "prompt.sound": Recipe(texts.with_sound, texts.prompt, HEARS),
    "prompt.picture": Recipe(texts.with_picture, texts.prompt, SEES),
    "prompt.video": Recipe(texts.with_video, texts.prompt, SEES),
    "prompt.video_with_sound": Recipe(texts.with_video_and_sound, texts.prompt, HEARS + SEES),
    "mel": Recipe(texts.mel_inputs, texts.mel, HEARS),
    "picture": Recipe(texts.picture_inputs, texts.picture, SEES),
    "windows": Recipe(texts.window_inputs, texts.windows, SEES),
    "rotary": Recipe(graphs.rotary_inputs, graphs.rotary),
    "tables": Recipe(graphs.table_inputs, graphs.table_rows),
    "audio_encoder": Recipe(graphs.audio_inputs, graphs.audio_encoder, HEARS),
    "vision_encoder": Recipe(graphs.vision_inputs, graphs.vision_encoder, SEES),
    "thinker": Recipe(graphs.thinker_inputs, graphs.thinker),
    "thinker.sound": Recipe(graphs.thinker_sound_inputs, graphs.thinker, HEARS),
    "talker": Recipe(graphs.talker_inputs, graphs.talker, SPEAKS),
    "noise": Recipe(graphs.noise_inputs, graphs.noise, SPEAKS),
    "dit": Recipe(graphs.dit_inputs, graphs.dit, SPEAKS),
    "vocoder": Recipe(graphs.vocoder_inputs, graphs.vocoder, SPEAKS),
    "sampling": Recipe(graphs.sampling_inputs, graphs.sampling),
}
"""By name, each after those from which it takes its inputs."""


def open_model(bundle: Path) -> Model:
    """Open a bundle as vectors are made: one thread, and no kernels but ONNX Runtime's."""
    return Model(bundle, SessionOptions(threads=1, native=False, prepack_cache=False))


def make(model: Model) -> dict[str, Case]:
    """Compute all vectors of a bundle."""
    made: dict[str, Case] = {}
    for name in _names(model):
        inputs = RECIPES[name].inputs(model, made)
        made[name] = Case(inputs, RECIPES[name].outputs(model, inputs))
    return made


def save(model: Model, folder: Path) -> int:
    """Write all vectors of a bundle into a new folder; returns their number. Raises OmniError."""
    cases = make(model)
    manifest = model.bundle.folder / FILE_NAME
    about = {"name": model.bundle.manifest.name, "manifest_sha256": sha256_of(manifest)}
    write(folder, about, cases)
    return len(cases)


def check(model: Model, folder: Path) -> Iterator[str]:
    """Compute the outputs of recorded inputs anew; yield a line for each value that differs.

    Raises OmniError when the folder holds no vectors.
    """
    recorded, expected = read(folder), _names(model)
    for name in {**recorded, **dict.fromkeys(expected)}:
        if name not in recorded:
            yield f"{name} is only in this bundle"
        elif name not in expected:
            yield f"{name} is only in the vectors"
        else:
            case = recorded[name]
            yield from differences(name, case.outputs, RECIPES[name].outputs(model, case.inputs))


def _names(model: Model) -> list[str]:
    """The cases of a bundle."""
    return [
        name
        for name, recipe in RECIPES.items()
        if all(getattr(model.config, part) is not None for part in recipe.needs)
    ]
