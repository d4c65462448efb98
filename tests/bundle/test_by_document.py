"""A runtime written from docs/bundle.md alone agrees with the golden vectors."""

import io
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from bundle import by_document as second
from bundle import inputs_by_document as inputs
from conftest import Twin
from inputs.reference import AUDIO
from omni_runtime.bundle.config import SolverPreset
from omni_runtime.engine.dit import seeded_noise
from omni_runtime.engine.solver import evaluation_times, integrate
from omni_runtime.golden import suite
from omni_runtime.golden.vectors import Case, Tensor, differences, read
from omni_runtime.inputs.mel_features import log_mel


@pytest.fixture(params=["default", "narrow"])
def given(
    request: pytest.FixtureRequest, make_twin: Callable[[str], Twin], tmp_path: Path
) -> tuple[second.Bundle, dict[str, Case]]:
    folder = make_twin(request.param).bundle
    suite.save(suite.open_model(folder), tmp_path / "vectors")
    return second.Bundle(folder), read(tmp_path / "vectors")


def plain(value: Any) -> Any:
    """Replace tensors by arrays."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return value.values if isinstance(value, Tensor) else value


def agree(case: Case, found: dict[str, Any]) -> None:
    for name, value in found.items():
        wanted = case.outputs[name]
        if isinstance(wanted, Tensor):
            found_here = Tensor(np.asarray(value, wanted.values.dtype))
            assert not list(differences(name, wanted, found_here))
        else:
            assert not list(differences(name, wanted, value))


def test_tables_and_rotary_rows(given: tuple[second.Bundle, dict[str, Case]]) -> None:
    bundle, cases = given
    ids = cases["tables"].inputs
    agree(cases["tables"], {name: bundle.rows(name, ids[name]) for name in ids})
    positions = np.array(cases["rotary"].inputs["positions"])
    decoders = {"thinker": bundle.model["thinker"], "talker": bundle.speech["talker"]}
    for name, config in decoders.items():
        cos, sin = second.rotary(config["decoder"], positions)
        agree(cases["rotary"], {f"{name}_cos": cos, f"{name}_sin": sin})


@pytest.mark.parametrize("length", [100, 5000, 6400])
def test_log_mel_padded_on_the_left(length: int) -> None:
    config = replace(AUDIO, padded_samples=48_000, padding_side="left")
    samples = np.random.default_rng(length).normal(0, 0.1, length).astype(np.float32)
    found = second.log_mel(samples, msgspec.to_builtins(config))
    np.testing.assert_allclose(found, log_mel(samples, config), rtol=0, atol=1e-5)


def test_log_mel(given: tuple[second.Bundle, dict[str, Case]]) -> None:
    bundle, cases = given
    with wave.open(io.BytesIO(cases["mel"].inputs["sound"].data)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
    agree(cases["mel"], {"mel": second.log_mel(samples, bundle.model["audio"])})


def test_thinker_and_talker(
    given: tuple[second.Bundle, dict[str, Case]], make_twin: Callable[[str], Twin]
) -> None:
    bundle, cases = given
    case = cases["thinker"]
    prompt = suite.graphs.build(suite.open_model(bundle.folder), case.inputs)
    positions, following = np.array(case.outputs["positions"]), case.outputs["next_position"]
    agree(case, second.thinker(bundle, prompt.ids.tolist(), positions, following))
    steps = len(cases["talker"].outputs["logits"].values)
    agree(cases["talker"], second.talker(bundle, plain(cases["talker"].inputs), steps))


def test_dit_and_vocoder(given: tuple[second.Bundle, dict[str, Case]]) -> None:
    bundle, cases = given
    case, config = cases["dit"], suite.open_model(bundle.folder).speech.dit
    noise = seeded_noise(case.inputs["seed"], config)
    dit = second.Dit(bundle, case.inputs["voice"], case.inputs["preset"], noise)
    for number, chunk in enumerate(case.inputs["chunks"]):
        mel, provisional = dit.chunk(chunk["codes"], chunk["commit"])
        agree(case, {f"mel_{number}": mel})
        if len(provisional):
            agree(case, {f"provisional_{number}": provisional})
    mels, vocoder = plain(cases["vocoder"].inputs), second.Vocoder(bundle)
    first = vocoder.push(mels["mel_0"], mels["provisional_0"])
    agree(cases["vocoder"], {"samples_0": first, "samples_1": vocoder.push(mels["mel_1"], None)})


@pytest.mark.parametrize("solver", ["euler", "midpoint", "rk4"])
def test_solvers_and_modulation_rows(solver: str) -> None:
    preset = SolverPreset(
        solver=solver, steps=5, sway=-1.0, guidance=0.5, guided=2, summary="a test"
    )
    _, rows = np.unique(evaluation_times(preset), return_inverse=True)

    def velocity(evaluation: int, row: int, x: np.ndarray) -> np.ndarray:
        assert row == rows[evaluation]
        return (np.sin(3 * x) + np.float32(row)).astype(np.float32)

    start = np.linspace(-2, 2, 9, dtype=np.float32)[:, None]
    found = second.flow(msgspec.to_builtins(preset), start, velocity)
    wanted = integrate(preset, start, lambda one, x: velocity(one, int(rows[one]), x))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_sampling(given: tuple[second.Bundle, dict[str, Case]]) -> None:
    case = given[1]["sampling"]
    logits = case.inputs["logits"].values
    for settings, link in zip(case.inputs["settings"], case.outputs["links"], strict=True):
        found = second.probabilities(logits, case.inputs["seen"], settings)
        assert not list(differences("p", link["probabilities"], Tensor(found)))


def test_quantized_tables(export_default: Callable[[str], Path]) -> None:
    folder = export_default("int4")
    model, bundle = suite.open_model(folder), second.Bundle(folder)
    found = {entry["encoding"] for entry in bundle.manifest["tables"].values()}
    assert found == {"int8", "bfloat16"}
    for name in bundle.manifest["tables"]:
        wanted = model.bundle.table(name)[np.array([0, 5, 3])]
        np.testing.assert_array_equal(bundle.rows(name, [0, 5, 3]), wanted)


def test_texts_and_prompts(given: tuple[second.Bundle, dict[str, Case]]) -> None:
    bundle, cases = given
    text = inputs.Text(bundle.folder, bundle.model["thinker"]["tokens"])
    agree(cases["text"], {"ids": [text.encode(one) for one in cases["text"].inputs["texts"]]})
    names = [name for name in cases if name.startswith("prompt.")]
    assert len(names) == 7
    for name in names:
        media = cases[name].outputs["media"]
        found = inputs.prompt(bundle.model, text, cases[name].inputs, media)
        assert found.pop("rows") == [one["rows"] for one in media], name
        agree(cases[name], found)


def test_pictures(given: tuple[second.Bundle, dict[str, Case]]) -> None:
    bundle, cases = given
    config, case = bundle.model["vision"], cases["picture"]
    factor = config["patch_size"] * config["merge_size"]
    bounds = config["image_min_pixels"], config["image_max_pixels"]
    sizes = [inputs.size(h, w, *bounds, factor) for h, w in case.inputs["sizes"]]
    agree(case, {"image_sizes": sizes})
    films = [
        inputs.size(h, w, *inputs.film_bounds(frames, config), factor)
        for h, w in case.inputs["sizes"]
        for frames in case.inputs["video_frames"]
    ]
    agree(case, {"video_sizes": films})
    clips = [inputs.clip_frames(total, rate, config) for total, rate in case.inputs["clips"]]
    agree(case, {"clip_frames": [numbers[:40] for numbers, _ in clips]})
    agree(case, {"clip_counts": [len(one) for one, _ in clips]})
    agree(case, {"clip_rates": [fps for _, fps in clips]})
    agree(case, {"patches": inputs.patches(case.outputs["resized"].values, config)})
    agree(cases["windows"], inputs.windows(cases["windows"].inputs["grid"], config))
