"""Images that people have: transparency, 16-bit gray, HEIC, old formats, large photographs."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from inputs.reference import VISION
from inputs.samples import frame, picture, sweep, write_media
from omni_runtime.errors import MediaError
from omni_runtime.inputs import image
from omni_runtime.inputs.image import load_image
from omni_runtime.inputs.video import load_video

DATA = Path(__file__).parent.parent / "data"
WHITE, RED = (255, 255, 255), (255, 0, 0)


def saved(made: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    made.save(file, kind, **options)
    return file.getvalue()


def test_transparent_areas_are_white() -> None:
    """As qwen_omni_utils' to_rgb; the colour below full transparency is black here."""
    logo = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    logo.paste((255, 0, 0, 255), (10, 10, 20, 20))
    logo.paste((0, 0, 0, 128), (30, 0, 40, 30))
    for kind in ("PNG", "TIFF", "WEBP"):
        made = load_image(saved(logo, kind, **({"lossless": True} if kind == "WEBP" else {})))
        assert tuple(made[0, 0]) == WHITE and tuple(made[15, 15]) == RED
        assert abs(int(made[5, 35, 0]) - 127) <= 1
    gray = load_image(saved(logo.convert("LA"), "PNG"))
    assert tuple(gray[0, 0]) == WHITE and gray[15, 15].max() < 100
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.paste(1, (5, 5, 9, 9))
    for kind in ("PNG", "GIF"):
        made = load_image(saved(palette, kind, transparency=0))
        assert tuple(made[0, 0]) == WHITE and tuple(made[6, 6]) == RED


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled(kind: str) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    made = load_image(saved(Image.fromarray(ramp), kind))
    np.testing.assert_array_equal(made, np.arange(256).reshape(16, 16, 1).repeat(3, 2))


@pytest.mark.parametrize("kind", ["TGA", "PCX"])
def test_old_formats(kind: str) -> None:
    expected = picture(20, 30)
    np.testing.assert_array_equal(load_image(saved(Image.fromarray(expected), kind)), expected)


def test_heic() -> None:
    path = DATA / "photo.heic"
    with av.open(str(path)) as container:
        expected = next(container.decode(video=0)).to_ndarray(format="rgb24")
    difference = load_image(path).astype(int) - expected
    assert np.abs(difference).max() <= 2, "two decoders convert from YUV"
    data = path.read_bytes()
    for stop in (12, 40, len(data) // 2, len(data) - 20):
        with pytest.raises(MediaError):
            load_image(data[:stop])


CORNERS = ((200, 30, 30), (30, 160, 40), (230, 210, 40), (30, 40, 200))
"""Colors of the quarters of tiled.heic, clockwise: four tiles of 64 x 64, cut to 120 x 100."""


@pytest.mark.parametrize(("name", "turns"), [("tiled.heic", 0), ("tiled_turned.heic", 1)])
def test_heic_of_tiles(name: str, turns: int) -> None:
    made = load_image(DATA / name).astype(int)
    assert made.shape == ((120, 100, 3) if turns else (100, 120, 3))
    expected = (*CORNERS[turns:], *CORNERS[:turns])
    for quarter, color in zip(
        (made[8, 8], made[8, -8], made[-8, -8], made[-8, 8]), expected, strict=True
    ):
        assert np.abs(quarter - color).max() <= 2


def test_heic_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(image._LIMITS, "HEIF", 11_999)
    with pytest.raises(MediaError, match="more than 11,999 pixels"):
        load_image(DATA / "tiled.heic")


def test_an_mp4_is_no_image() -> None:
    with pytest.raises(MediaError, match="not an image in a supported format"):
        load_image(b"\0\0\0\x18ftypisom" + b"\0" * 100)


def test_a_large_photograph_is_scaled_while_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "MAX_PIXELS", 5000)
    monkeypatch.setattr(image, "_ENOUGH_PIXELS", 3000)
    photo = Image.fromarray(picture(96, 128)).resize((128, 96))
    made = load_image(saved(photo, "JPEG", quality=95))
    assert made.shape == (48, 64, 3)
    expected = np.asarray(photo.resize((64, 48), Image.Resampling.BOX)).astype(int)
    assert np.abs(made - expected).mean() < 6
    for data in (saved(photo, "PNG"), saved(photo.resize((256, 192)), "JPEG")):
        with pytest.raises(MediaError, match=r"more than (5|20),000 pixels"):
            load_image(data)


def test_108_megapixels() -> None:
    photo = Image.new("L", (12000, 9000), 90)
    assert load_image(saved(photo, "JPEG")).shape == (4500, 6000, 3)


def test_jpegs_above_the_limit_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    monkeypatch.setattr(image, "_ENOUGH_PIXELS", 3000)
    photo = Image.fromarray(picture(96, 128))
    assert load_image(saved(photo, "JPEG")).shape == (48, 64, 3)
    with pytest.raises(MediaError, match="too many pixels"):
        load_image(saved(photo, "PNG"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_image_is_reduced_in_strips(
    monkeypatch: pytest.MonkeyPatch, mode: str, orientation: int
) -> None:
    photo = Image.fromarray(picture(61, 90)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(photo, "TIFF", exif=exif)
    whole = load_image(data)
    monkeypatch.setattr(image, "_STRIP_PIXELS", 500)
    np.testing.assert_array_equal(load_image(data), whole)
    monkeypatch.setattr(image, "_ENOUGH_PIXELS", 61 * 90 // 9)
    made = load_image(data)
    assert made.shape == (*(-(-side // 3) for side in whole.shape[:2]), 3)
    assert abs(made.astype(int).mean() - whole.mean()) < 3


def test_an_animated_webp_is_a_video() -> None:
    frames = [Image.fromarray(frame(4 * i)) for i in range(20)]
    lengths = [100] * 10 + [1000] * 10
    data = saved(
        frames[0], "WEBP", save_all=True, append_images=frames[1:], duration=lengths, lossless=True
    )
    clip = load_video(data, VISION)
    assert (clip.duration, clip.fps, clip.audio) == (11.0, 2.0, None)
    seen = [0, 5, *(10 + i // 2 for i in range(20))]
    np.testing.assert_array_equal(np.rint(clip.frames.mean(axis=(1, 2, 3)) / 12), seen)
    with pytest.raises(MediaError, match=r"truncated|damaged"):
        load_video(data[: len(data) // 2], VISION)


def test_an_extreme_shape_is_refused_before_it_is_decoded() -> None:
    data = saved(Image.new("1", (1, 1_000_000)), "PNG")
    with pytest.raises(MediaError, match="aspect ratio of 200 : 1"):
        load_image(data)


@pytest.mark.parametrize(
    ("suffix", "codec", "sound"),
    [("h264", "libx264", None), ("hevc", "libx265", None), ("flv", "flv", "libmp3lame")],
)
def test_videos_that_cannot_seek(
    tmp_path: Path, suffix: str, codec: str, sound: str | None
) -> None:
    path = write_media(
        tmp_path / f"a.{suffix}",
        frames=[frame(i) for i in range(50)],
        video_codec=codec,
        sound=sweep(2, 44100) if sound else None,
        rate=44100,
        audio_codec=sound or "",
    )
    clip = load_video(path, VISION)
    assert (clip.audio is not None) == (sound is not None)
    means = clip.frames.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(means, [0, 48, 99, 147], atol=4)
