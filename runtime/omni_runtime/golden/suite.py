"""Compute all golden vectors of a bundle, and compare a bundle with recorded vectors."""

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
class CaseBuilder:
    """Functions that compute the inputs and outputs of a case; parts of the model it needs."""

    inputs: Callable[[Model, dict[str, Case]], Values]
    outputs: Callable[[Model, Values], Values]
    needs: tuple[str, ...] = ()


AUDIO, VISION, SPEECH = ("audio",), ("vision",), ("speech",)

CASE_BUILDERS = {
    "text": CaseBuilder(texts.text_inputs, texts.text_ids),
    "prompt.text": CaseBuilder(texts.text_only, texts.prompt),
    "prompt.special_tokens": CaseBuilder(texts.special_tokens, texts.prompt),
    "prompt.second_turn": CaseBuilder(texts.second_turn, texts.prompt),
    "prompt.sound": CaseBuilder(texts.with_audio, texts.prompt, AUDIO),
    "prompt.picture": CaseBuilder(texts.with_image, texts.prompt, VISION),
    "prompt.video": CaseBuilder(texts.with_video, texts.prompt, VISION),
    "prompt.video_with_sound": CaseBuilder(
        texts.with_video_and_audio, texts.prompt, AUDIO + VISION
    ),
    "mel": CaseBuilder(texts.mel_inputs, texts.mel, AUDIO),
    "picture": CaseBuilder(texts.picture_inputs, texts.picture, VISION),
    "windows": CaseBuilder(texts.window_inputs, texts.windows, VISION),
    "rotary": CaseBuilder(graphs.rotary_inputs, graphs.rotary),
    "tables": CaseBuilder(graphs.table_inputs, graphs.table_rows),
    "audio_encoder": CaseBuilder(graphs.audio_inputs, graphs.audio_encoder, AUDIO),
    "vision_encoder": CaseBuilder(graphs.vision_inputs, graphs.vision_encoder, VISION),
    "thinker": CaseBuilder(graphs.thinker_inputs, graphs.thinker),
    "thinker.sound": CaseBuilder(graphs.thinker_audio_inputs, graphs.thinker, AUDIO),
    "talker": CaseBuilder(graphs.talker_inputs, graphs.talker, SPEECH),
    "noise": CaseBuilder(graphs.noise_inputs, graphs.noise, SPEECH),
    "dit": CaseBuilder(graphs.dit_inputs, graphs.dit, SPEECH),
    "vocoder": CaseBuilder(graphs.vocoder_inputs, graphs.vocoder, SPEECH),
    "sampling": CaseBuilder(graphs.sampling_inputs, graphs.sampling),
}
"""Builders by case name. A case follows the cases whose outputs it uses."""


def open_model(bundle: Path) -> Model:
    """Open a bundle with one thread and without native kernels."""
    return Model(bundle, SessionOptions(threads=1, native=False, prepack_cache=False))


def make(model: Model) -> dict[str, Case]:
    """Compute all golden vectors of a bundle."""
    cases: dict[str, Case] = {}
    for name in _names(model):
        inputs = CASE_BUILDERS[name].inputs(model, cases)
        cases[name] = Case(inputs, CASE_BUILDERS[name].outputs(model, inputs))
    return cases


def save(model: Model, folder: Path) -> int:
    """Write all vectors of a bundle to a new folder; return the number of cases.

    Raises OmniError when the folder is not empty or cannot be written.
    """
    cases = make(model)
    manifest = model.bundle.folder / FILE_NAME
    about = {"name": model.bundle.manifest.name, "manifest_sha256": sha256_of(manifest)}
    write(folder, about, cases)
    return len(cases)


def check(model: Model, folder: Path) -> Iterator[str]:
    """Recompute the outputs from recorded inputs; yield a line for each value that differs.

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
            yield from differences(
                name, case.outputs, CASE_BUILDERS[name].outputs(model, case.inputs)
            )


def _names(model: Model) -> list[str]:
    """Return the cases that apply to a model."""
    return [
        name
        for name, builder in CASE_BUILDERS.items()
        if all(getattr(model.config, part) is not None for part in builder.needs)
    ]
