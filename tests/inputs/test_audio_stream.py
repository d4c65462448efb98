"""A finished AudioStream has the features of the whole clip; changed blocks have a new revision."""

import threading

import numpy as np
import pytest
from msgspec.structs import replace

from inputs.reference import AUDIO
from inputs.samples import sweep
from omni_runtime.errors import MediaError, UsageError
from omni_runtime.inputs.audio_stream import AudioStream
from omni_runtime.inputs.media import load_audio
from omni_runtime.inputs.mel_features import MelFeatures, log_mel

SHORT = replace(AUDIO, padded_samples=3 * 16000)
"""Padding shorter than 300 s, to test its boundary quickly."""


def streamed(samples: np.ndarray, rate: int, pieces: list[int], config=AUDIO) -> MelFeatures:
    """Push chunks of these sizes in a cycle, and read the features after each push."""
    stream = AudioStream(config)
    place = 0
    while place < samples.shape[-1]:
        for size in pieces:
            stream.push(samples[..., place : place + size], rate)
            place += size
        features = stream.features()
        assert features.frames % config.block_frames == 0
    stream.finish()
    stream.finish()
    return stream.features()


def check(samples: np.ndarray, rate: int, pieces: list[int], config=AUDIO) -> None:
    wanted = log_mel(load_audio((samples, rate)), config)
    found = streamed(samples, rate, pieces, config)
    assert found.shape == wanted.shape and found.blocks == wanted.blocks
    np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("pieces", [[160], [441, 1, 0, 4000], [7777], [10**6]])
def test_streaming_equals_one_shot(rate: int, pieces: list[int]) -> None:
    check(sweep(4.7, rate), rate, pieces)
    for length in (1, 37, 200, 201, 202, 479, 1601, 4 * rate, 4 * rate + 1):
        check(sweep(5, rate)[:length], rate, pieces)


@pytest.mark.parametrize("length", [*range(31600, 32601, 200), *range(47600, 48801, 100)])
def test_clip_lengths_around_block_and_padding_boundaries(length: int) -> None:
    check(sweep(4)[:length], 16000, [1600], SHORT)


@pytest.mark.parametrize("length", [1, 170, 479, 480, 700, 32000, 32159, 32480, 64000, 64100])
def test_padding_on_the_left(length: int) -> None:
    """Samples after the last full hop are dropped, since the grid is fixed at the start."""
    left = replace(AUDIO, padding_side="left")
    clip = sweep(5)[:length]
    used = clip[: length - length % 160] if length > 480 else clip
    for pieces in ([160], [441, 1, 0, 4000], [10**6]):
        found, wanted = streamed(clip, 16000, pieces, left), log_mel(used, left)
        assert found.shape == wanted.shape
        np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), rtol=0, atol=1e-6)


def test_a_clip_longer_than_the_padding() -> None:
    check(sweep(301, 8000), 8000, [8000])


def test_sample_dtypes_and_layouts() -> None:
    mono = sweep(2.5, 44100)
    integers = (mono * 2**15).astype(np.int16)
    for samples in (integers, np.stack([mono, mono[::-1]]), mono.astype(np.float64)):
        check(samples, 44100, [4410])
    check(np.zeros(70000, np.float32), 44100, [4410])


def test_a_higher_floor_revises_only_changed_blocks() -> None:
    quiet = np.random.default_rng(0).normal(0, 1e-3, 4 * 16000 + 400).astype(np.float32)
    loud = np.random.default_rng(1).normal(0, 0.3, 2 * 16000).astype(np.float32)
    gap = quiet.copy()
    gap[33000:36000] = 0  # the second block alone holds values below any floor
    stream = AudioStream(AUDIO, 16000)
    stream.push(gap)
    before = stream.features()
    values = np.asarray(before)
    stream.push(0.05 * loud)
    assert before.common_blocks(stream.features()) == 1, "the silence of the second block changed"
    stream.push(1e4 * loud)
    stream.finish()
    after = stream.features()
    assert before.common_blocks(after) == after.common_blocks(before) == 0
    assert after.common_blocks(stream.features()) == after.blocks == 5
    np.testing.assert_array_equal(np.asarray(before), values, "a view stays as it was")
    check(np.concatenate([gap, 0.05 * loud, 1e4 * loud]), 16000, [1600])


def test_revision_changes_exactly_when_values_change() -> None:
    samples = np.random.default_rng(0).normal(0, 1, 16 * 16000).astype(np.float32)
    samples *= np.repeat([1e-3, 3e-4, 0, 1e-2, 1e-2, 30, 1e-4, 1e3], 32000).astype(np.float32)
    stream = AudioStream(AUDIO, 16000)
    views = [stream.features()]
    for piece in np.split(samples, 32):
        stream.push(piece)
        views.append(stream.features())
    for ours in views:
        for theirs in views:
            a, b = np.asarray(ours), np.asarray(theirs)
            same = [
                np.array_equal(a[:, 200 * k : 200 * k + 200], b[:, 200 * k : 200 * k + 200])
                for k in range(min(ours.blocks, theirs.blocks))
            ]
            assert ours.common_blocks(theirs) == [*same, False].index(False)


def test_blocks_of_other_clips_are_compared_by_value() -> None:
    samples = sweep(5)
    other = samples.copy()
    other[50000] += 0.1
    stream, clip = AudioStream(AUDIO, 16000), log_mel(samples, AUDIO)
    stream.push(samples)
    assert clip.common_blocks(stream.features()) == 2
    assert clip.common_blocks(log_mel(other, AUDIO)) == 1
    assert clip.common_blocks(log_mel(samples, AUDIO)) == clip.blocks == 3
    head, tail = clip.split(1)
    assert clip.common_blocks(head) == 1 and clip.common_blocks(tail) == 0
    assert tail.common_blocks(clip.split(1)[1]) == 2 and clip.stable_blocks == 2
    np.testing.assert_array_equal(np.concatenate([head, tail], axis=1), np.asarray(clip))


def test_concurrent_push_and_read() -> None:
    samples = sweep(20)
    stream = AudioStream(AUDIO, 16000)

    def push() -> None:
        for piece in np.split(samples, 2000):
            stream.push(piece)
        stream.finish()

    thread = threading.Thread(target=push)
    thread.start()
    counts = [0]
    while stream.running:
        counts.append(stream.features().blocks)
    thread.join()
    assert counts == sorted(counts)
    np.testing.assert_array_equal(np.asarray(stream.features()), log_mel(samples, AUDIO))


def test_invalid_pushes_raise_errors() -> None:
    stream = AudioStream(AUDIO)
    with pytest.raises(UsageError, match="no sample rate"):
        stream.push(np.zeros(3))
    with pytest.raises(MediaError, match="is not audio"):
        stream.push(np.zeros((1, 2, 3)), 16000)
    with pytest.raises(MediaError, match="NaN"):
        stream.push(np.array([0, np.nan]), 16000)
    assert stream.features().blocks == stream.seconds == 0
    stream.push(np.zeros(8000), 16000)
    with pytest.raises(MediaError, match="from 16000 to 8000 Hz"):
        stream.push(np.zeros(3), 8000)
    assert stream.seconds == 0.5 and stream.running
    stream.finish()
    with pytest.raises(UsageError, match="finished"):
        stream.push(np.zeros(3))
    empty = AudioStream(AUDIO)
    empty.finish()
    for _ in range(2):
        with pytest.raises(MediaError, match="holds no audio"):
            empty.features()
