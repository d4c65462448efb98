"""Each graph against the module of transformers, in float32, for all shapes."""

import msgspec
import numpy as np
import pytest
import torch

from conftest import Twin, relative
from omni_runtime.engine.dit import Dit, MelStream, seeded_noise
from omni_runtime.engine.session import Graph
from omni_runtime.engine.vocoder import WaveStream
from omni_runtime.inputs.mel_features import log_mel
from omni_runtime.inputs.pixels import Patches

TOLERANCE = 1e-4


def positions(random: np.random.Generator, rows: int) -> np.ndarray:
    """Return positions like those of media: three different axes that never decrease."""
    return np.cumsum(random.integers(0, 3, (3, rows)), axis=1)


@pytest.mark.parametrize("frames", [10, 199, 200, 201, 3100])
def test_audio_encoder(twin: Twin, frames: int) -> None:
    assert twin.model.config.audio is not None
    noise = np.random.default_rng(frames).standard_normal(160 * frames).astype(np.float32)
    mel = log_mel(noise, twin.model.config.audio)
    found = twin.model.audio_encoder.encode(mel)
    wanted = twin.reference.thinker.audio_tower(
        torch.from_numpy(np.asarray(mel)),
        feature_lens=torch.tensor([frames]),
        aftercnn_lens=torch.tensor([(frames - 1) // 2 + 1]),
    ).last_hidden_state
    assert relative(found, wanted) < TOLERANCE


def test_a_short_last_block_is_encoded_alone(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a batch it would be padded to a full block."""
    assert twin.model.config.audio is not None
    shapes = []
    run = Graph.run

    def spy(graph: Graph, feeds: dict[str, np.ndarray]) -> object:
        shapes.append(feeds["mel"].shape)
        return run(graph, feeds)

    monkeypatch.setattr(Graph, "run", spy)
    for seconds in (32.5, 4.0, 0.3):
        mel = log_mel(np.ones(round(16_000 * seconds), np.float32), twin.model.config.audio)
        twin.model.audio_encoder.encode(mel)
    mels = twin.model.config.audio.n_mels
    full, half, third = (8, mels, 200), (1, mels, 50), (1, mels, 30)
    assert shapes == [full, full, half, (2, mels, 200), third]


@pytest.mark.parametrize("grid", [(1, 4, 4), (1, 8, 16), (1, 10, 22), (3, 6, 10), (2, 16, 8)])
def test_vision_encoder(twin: Twin, grid: tuple[int, int, int]) -> None:
    values = np.random.default_rng(1).standard_normal((int(np.prod(grid)), 1176)).astype(np.float32)
    found = twin.model.vision_encoder.encode(Patches(values, grid))
    wanted = twin.reference.thinker.visual(torch.from_numpy(values), grid_thw=torch.tensor([grid]))
    assert relative(found, wanted) < TOLERANCE


def test_thinker_in_any_split(twin: Twin) -> None:
    random = np.random.default_rng(2)
    thinker, width = twin.model.thinker, twin.model.config.thinker.decoder.hidden_size
    rows = random.standard_normal((23, width)).astype(np.float32)
    where = positions(random, 23)
    output = twin.reference.thinker.model(
        inputs_embeds=torch.from_numpy(rows)[None], position_ids=torch.from_numpy(where)[:, None]
    ).last_hidden_state
    logits = twin.reference.thinker.lm_head(output)[0, -1]
    for split in ([23], [1] * 23, [7, 1, 15], [22, 1]):
        cache = thinker.new_cache()
        hidden, start = [], 0
        for size in split:
            some = slice(start, start + size)
            found = thinker._decoder.extend(cache, rows[some], where[:, some])
            hidden.append(found["hidden"])
            start += size
        assert relative(np.concatenate(hidden), output[0]) < TOLERANCE, split
        assert relative(found["logits"], logits) < TOLERANCE, split


def test_talker(twin: Twin) -> None:
    random = np.random.default_rng(3)
    talker = twin.model.talker
    rows = random.standard_normal((17, talker.config.input_size)).astype(np.float32)
    where = positions(random, 17)
    reference = twin.reference.talker
    hidden = reference.model(
        inputs_embeds=reference.thinker_to_talker_proj(torch.from_numpy(rows)[None]),
        position_ids=torch.from_numpy(where)[:, None],
    ).last_hidden_state
    wanted = reference.codec_head(hidden)[0, -1]
    found = talker._decoder.extend(talker.new_cache(), rows, where)["logits"]
    assert relative(found, wanted) < TOLERANCE


@pytest.mark.parametrize("codes", [5, 12, 31])
def test_dit_velocity_with_guidance(twin: Twin, codes: int) -> None:
    random = np.random.default_rng(codes)
    dit = twin.model.dit("faithful")
    ids = random.integers(0, dit.config.codes - 1, codes)
    noisy = random.standard_normal((2 * codes, 80)).astype(np.float32)
    voice = twin.reference.speaker_map["Ethan"]
    reference = twin.reference.token2wav.code2wav_dit_model
    frames = 2 * codes

    stream = MelStream(dit, twin.model.bundle.voice("Ethan"), lambda first, count: noisy)
    blocks = -(-frames // dit.config.block_frames)
    cos, sin = dit.rotary(0, frames)
    fixed = {
        "condition": stream._condition(ids, frames),
        "cos": cos,
        "sin": sin,
        "key_bias": stream._key_bias(blocks, frames),
        "commit": np.array([0]),
    }
    for evaluation in (0, 3, 35):
        time = np.float32([*_times(dit)][evaluation])
        wanted = reference(
            hidden_states=torch.from_numpy(noisy)[None],
            quantized_code=torch.from_numpy(ids)[None],
            speaker_embedding=voice["cond"].unsqueeze(1).repeat(1, frames, 1),
            condition_vector=voice["ref_mel"],
            time_step=torch.tensor(time),
            apply_cfg=True,
        )
        wanted = wanted[0] + (wanted[0] - wanted[1]) * 0.5
        found = stream._velocity(evaluation, noisy, fixed)
        assert relative(found, wanted) < TOLERANCE


def _times(dit: object) -> np.ndarray:
    from omni_runtime.engine.solver import evaluation_times  # noqa: PLC0415

    return evaluation_times(dit.preset)  # type: ignore[attr-defined]


def test_vocoder_whole_and_streamed(twin: Twin) -> None:
    random = np.random.default_rng(4)
    mel = (random.standard_normal((150, 80)) * 2 - 5).astype(np.float32)
    vocoder = twin.model.vocoder
    wanted = twin.reference.token2wav.code2wav_bigvgan_model(torch.from_numpy(mel.T)[None]).numpy()
    assert relative(vocoder.synthesize(mel, 0, 0), wanted) < TOLERANCE
    for size in (24, 37, 60):
        stream, pieces = WaveStream(vocoder, 80), []
        for start in range(0, 150, size):
            new, ahead = mel[start : start + size], mel[start + size :]
            pieces.append(stream.push(new, ahead, last=not len(ahead)))
        assert relative(np.concatenate(pieces), wanted) < TOLERANCE, size


def test_guidance_on_some_evaluations(twin: Twin) -> None:
    """On all evaluations it equals the preset, on none guidance 0, on some neither."""
    model = twin.model
    codes = np.random.default_rng(2).integers(0, model.speech.dit.codes - 1, 36)
    balanced = model.dit("balanced")
    assert balanced.branches == [2] * 8

    def mel(guided: int, guidance: float = 0.5) -> np.ndarray:
        preset = msgspec.structs.replace(balanced.preset, guided=guided, guidance=guidance)
        dit = Dit(
            balanced.graph,
            balanced.config,
            preset,
            balanced.code_table,
            model.bundle.modulation("balanced"),
        )
        stream = MelStream(dit, model.bundle.voice("Ethan"), seeded_noise(0, dit.config))
        chunks = [stream.chunk(codes[:24], 1).mel, stream.chunk(codes[12:], 2).mel]
        return np.concatenate(chunks)

    some, none = mel(6), mel(0)
    assert relative(mel(8, 0.0), none) < TOLERANCE
    assert relative(some, none) > TOLERANCE and relative(some, mel(8)) > TOLERANCE
    # Where the null branch is computed but not added, and where it is not computed at all.
    assert relative(mel(6, 0.0), none) < TOLERANCE
