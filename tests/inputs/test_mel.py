"""Log-mel, blocks and token counts equal the reference; long and short clips are complete."""

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from inputs.reference import AUDIO, feature_extractor
from inputs.samples import sweep
from omni_runtime.bundle.config import AudioConfig
from omni_runtime.inputs.mel import MIN_FRAMES, audio_tokens
from omni_runtime.inputs.mel_features import log_mel


def extracted(samples: np.ndarray, seconds: int, side: str = "right") -> np.ndarray:
    """Return the reference's frames of one clip, selected by its attention mask."""
    result = feature_extractor(seconds, side)(
        samples,
        sampling_rate=16000,
        padding="max_length",
        return_attention_mask=True,
        return_tensors="np",
    )
    return result["input_features"][0][:, result["attention_mask"][0].astype(bool)]


# 30 s of padding give the same as 300 s in a tenth of the time, except to the longest clips.
@pytest.mark.parametrize(
    ("seconds", "padded"),
    [(0.1, 300), (1.99, 30), (2.0, 30), (2.01, 30), (29.99, 30), (30.0, 30), (31, 40), (300, 300)],
)
def test_mel_equals_the_reference(seconds: float, padded: int) -> None:
    samples = sweep(seconds)
    config = AUDIO if padded == 300 else _padded(padded)
    mel = np.asarray(log_mel(samples, config))
    expected = extracted(samples, padded)
    assert mel.dtype == np.float32
    assert mel.shape == expected.shape
    np.testing.assert_allclose(mel, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("length", [30 * 16000 - 1, 30 * 16000 - 170, 30 * 16000 - 390, 161])
def test_mel_around_the_padding_boundary(length: int) -> None:
    samples = sweep(31)[:length]
    expected = extracted(samples, 30)
    mel = np.asarray(log_mel(samples, _padded(30)))[:, : expected.shape[1]]
    np.testing.assert_allclose(mel, expected, atol=1e-4)


def test_silence_and_noise() -> None:
    noise = np.random.default_rng(1).standard_normal(5000).astype(np.float32)
    # The loudest frame is the first one behind the clip, which still sets the floor.
    loud_end = np.concatenate([1e-3 * noise[:4770], np.ones(30, np.float32)])
    for samples in (np.zeros(4000, np.float32), noise, 1e-4 * noise, loud_end, loud_end[:-1]):
        np.testing.assert_allclose(log_mel(samples, _padded(30)), extracted(samples, 30), atol=1e-4)


@pytest.mark.parametrize("length", [480, 481, 560, 600, 639, 32000, 32001, 64250, 479_000])
def test_padding_on_the_left(length: int) -> None:
    """Frames are on a grid that ends with the clip."""
    random = np.random.default_rng(length)
    noise = random.standard_normal(length).astype(np.float32) * 1e-4
    loud_start = np.concatenate([np.ones(30, np.float32), noise[30:]])
    for samples in (sweep(30)[:length], noise, loud_start):
        expected = extracted(samples, 30, "left")
        mel = np.asarray(log_mel(samples, replace(_padded(30), padding_side="left")))
        assert mel.shape == expected.shape
        np.testing.assert_allclose(mel, expected, atol=1e-4)


def test_clip_longer_than_the_padding_is_complete() -> None:
    samples = sweep(3.2)
    mel, wanted = (np.asarray(log_mel(samples, _padded(seconds))) for seconds in (1, 30))
    assert mel.shape == (128, 320)
    np.testing.assert_allclose(mel[:, :300], wanted[:, :300], atol=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("length", [1, 160, 320, 321, 480])
def test_the_shortest_clip_gives_one_token(length: int, side: str) -> None:
    mel = log_mel(sweep(1)[:length], replace(AUDIO, padding_side=side))
    assert mel.frames == MIN_FRAMES
    assert audio_tokens(mel.frames) == 1
    assert mel.batch(0, 8)[1].tolist() == [MIN_FRAMES]


def test_blocks_contain_all_frames() -> None:
    noise = np.random.default_rng(0).standard_normal(20 * 16000).astype(np.float32)
    for frames in [3, 10, 199, 200, 201, 202, 203, 400, 401, 403, 1000, 1723]:
        features = log_mel(noise[: frames * 160], AUDIO)
        mel = np.asarray(features)
        assert mel.shape == features.shape == (128, frames)
        cut, lengths = features.batch(0, features.blocks)
        assert cut.shape == (len(lengths), 128, min(frames, 200))
        used = int(lengths.sum())
        joined = cut.transpose(1, 0, 2).reshape(128, -1)
        np.testing.assert_array_equal(joined[:, :used], mel[:, :used])
        assert not joined[:, used:].any()
        assert frames - used < MIN_FRAMES
        assert sum(audio_tokens(n) for n in lengths) == audio_tokens(frames)


def test_token_counts_equal_the_encoder() -> None:
    frames = torch.arange(3, 2000)
    expected = (((frames - 1) // 2 + 1) - 2) // 2 + 1
    assert [audio_tokens(n) for n in frames.tolist()] == expected.tolist()


def _padded(seconds: int) -> AudioConfig:
    return replace(AUDIO, padded_samples=seconds * 16000)
