"""Pictures and films as a phone's decoders hand them over become what the Python runtime makes.

PyAV and Pillow stand in for Android's decoders: they give time stamps, frames and pixels.
"""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from tests.android.engine import Engine, EngineError, Jvm

from inputs.samples import frame, picture, sweep, write_media
from inputs.test_recordings import copied, screen
from omni_runtime.bundle.config import VisionConfig
from omni_runtime.engine.session import SessionOptions
from omni_runtime.inputs.image import load_image
from omni_runtime.inputs.pixels import patches
from omni_runtime.inputs.timeline import Clock
from omni_runtime.inputs.video import VideoClip, load_video
from omni_runtime.model import Model


@pytest.fixture(scope="module")
def engine(jvm: Jvm, trained: Path):
    engine = jvm.load(trained)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def vision(trained: Path) -> VisionConfig:
    found = Model(trained, SessionOptions(threads=1)).config.vision
    assert found is not None
    return found


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, form, **options)
    return data.getvalue()


# Pictures


def test_transparency_is_white(engine: Engine) -> None:
    draw = np.random.default_rng(0)
    rgba = draw.integers(0, 256, (256, 64, 4), np.uint8)
    rgba[:, :, 3] = np.arange(256)[:, None]  # every degree of transparency
    found = engine.ask("media.rgba", pixels=rgba)
    np.testing.assert_array_equal(found, load_image(saved(Image.fromarray(rgba), "PNG")))
    np.testing.assert_array_equal(found[0], 255)


@pytest.mark.parametrize("most", [65535, 300, 255])
def test_gray_of_16_bits(engine: Engine, most: int) -> None:
    """Android gives half-precision numbers, which round 16 bits before they become 8."""
    gray = np.linspace(0, most, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    wanted = load_image(saved(Image.fromarray(gray), "PNG")).astype(int)
    halves = np.ones((64, 64, 4), np.float16)
    halves[..., :3] = (gray / 65535).astype(np.float16)[..., None]
    found = engine.ask("media.halves", pixels=halves.view(np.uint16)).astype(int)
    assert np.abs(found - wanted).max() <= (most > 255)
    assert (found != wanted).mean() < 0.1


# Films


def told(path: Path) -> dict[str, Any]:
    """Return what MediaExtractor and MediaCodec tell of a film, as the app asks for it."""
    stamps, sounds = _stamps(path, "video"), _stamps(path, "audio")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        clock, frames, shown = Clock(container), [], []
        for decoded in container.decode(stream):
            assert decoded.pts is not None and decoded.time_base is not None
            frames.append(decoded.to_ndarray(format="rgb24"))
            shown.append(clock(decoded.pts, decoded.time_base))
        length, rate = stream.duration, stream.average_rate
        seconds = float(length * stream.time_base) if length and stream.time_base else None
    return {
        "frames": np.stack(frames),
        "shown": shown,
        "times": {
            "stamps": stamps,
            "sound": sounds[0] if sounds else None,
            "length": seconds if path.suffix == ".mp4" else None,
            "rate": round(rate) if rate else None,
        },
        "sound": _sound(path) if sounds else None,
    }


def _stamps(path: Path, kind: str) -> list[float]:
    with av.open(str(path)) as container:
        clock = Clock(container)
        return [
            clock(packet.pts, packet.time_base)
            for packet in container.demux()
            if packet.size and packet.pts is not None and packet.stream.type == kind
            if not packet.is_discard
        ]


def _sound(path: Path) -> list[dict[str, Any]]:
    """Return decoded pieces of mono sound with their time stamps."""
    with av.open(str(path)) as container:
        clock = Clock(container)
        return [
            {
                "samples": decoded.to_ndarray().mean(axis=0, dtype=np.float32)
                if decoded.format.is_planar
                else decoded.to_ndarray()[0].astype(np.float32) / 32768,
                "rate": decoded.sample_rate,
                "at": clock(decoded.pts, decoded.time_base),
            }
            for decoded in container.decode(audio=0)
        ]


def film(path: Path, times: list[float] | None = None, late: str = "") -> Path:
    """Write a film with a sound of 16 kHz: frames at `times`, or one track 2 s `late`."""
    frames = [frame(3 * i) for i in range(60)]
    whole = write_media(
        path.with_name(f"whole{path.suffix}"),
        frames=frames,
        sound=sweep(2.4) + np.float32(0.1),
        rate=16000,
        audio_codec="pcm_s16le" if path.suffix == ".mkv" else "aac",
    )

    def move(packet: av.Packet) -> float:
        if times is not None and packet.stream.type == "video":
            at = packet.pts * packet.time_base
            return times[round(at * 25)] - float(at)
        return 2.0 * (packet.stream.type == late)

    return copied(whole, path, move)


def hole(path: Path) -> Path:
    """The recorder was paused for three seconds."""
    whole = film(path.with_name(f"all{path.suffix}"))
    return copied(whole, path, lambda packet: 3.0 * (packet.pts * packet.time_base >= 1))


FILMS: dict[str, Callable[[Path], Path]] = {
    "constant.mkv": film,
    "constant.mp4": film,
    "late_pictures.mkv": lambda path: film(path, late="video"),
    "late_sound.mkv": lambda path: film(path, late="audio"),
    "hole.mkv": hole,
    "hole.mp4": hole,
    "variable.webm": lambda path: screen(
        path, [i / 25 for i in range(10)] + [float(i) for i in range(1, 11)]
    ),
    "jitter.webm": lambda path: screen(
        path,
        (np.arange(80) / 15 + 0.02 + np.random.default_rng(0).uniform(-0.01, 0.01, 80)).tolist(),
    ),
    "screen.mkv": lambda path: screen(path, [0, 5, 20, 24], "mpeg4"),
    "one_frame.mkv": lambda path: screen(path, [0.0], "mpeg4"),
}


@pytest.mark.parametrize("name", FILMS)
def test_films(engine: Engine, vision: VisionConfig, tmp_path: Path, name: str) -> None:
    """Frames by their time stamps, holes of the sound as silence, both from the same moment on."""
    path = FILMS[name](tmp_path / name)
    same_film(engine.ask("media.film", film=told(path)), load_video(path, vision), vision)


def unusable(samples: np.ndarray) -> dict[str, Any]:
    return {"samples": np.full_like(samples, np.nan), "rate": 16_000}


def test_a_film_whose_sound_cannot_be_used(
    engine: Engine, vision: VisionConfig, tmp_path: Path
) -> None:
    path = film(tmp_path / "constant.mkv")
    given = told(path)
    given["sound"] = [piece | unusable(piece["samples"]) for piece in given["sound"]]
    wanted = replace(load_video(path, vision), audio=None)
    same_film(engine.ask("media.film", film=given), wanted, vision)


def test_the_first_usable_sound_track(engine: Engine) -> None:
    good = {"samples": sweep(0.1), "rate": 16_000}
    empty = good | {"samples": good["samples"][:0]}
    bad = unusable(good["samples"])
    for tracks in ([good, bad], [bad, empty, good]):
        found = engine.ask("media.tracks", tracks=tracks)
        np.testing.assert_array_equal(found, good["samples"])
    assert engine.ask("media.tracks", tracks=[]) is None
    with pytest.raises(EngineError, match="NaN"):
        engine.ask("media.tracks", tracks=[bad, empty])


def same_film(found: dict[str, Any], wanted: VideoClip, vision: VisionConfig) -> None:
    cut = patches(wanted.frames, vision)
    assert found["grid"] == [*cut.grid]
    assert found["seconds"] == pytest.approx(vision.temporal_patch_size / wanted.fps, rel=1e-9)
    np.testing.assert_array_equal(found["patches"], cut.values)
    assert (found["sound"] is None) == (wanted.audio is None)
    if wanted.audio is not None:
        np.testing.assert_allclose(found["sound"], wanted.audio, atol=1e-6)


def test_frames_that_cannot_be_decoded(engine: Engine, tmp_path: Path) -> None:
    """The frame before stands for a lost one; a film that lost a tenth is refused."""
    given = told(film(tmp_path / "a.mkv"))
    whole = engine.ask("media.film", film=given)
    lost = {**given, "shown": given["shown"][:20] + given["shown"][22:]}
    lost["frames"] = np.delete(given["frames"], [20, 21], axis=0)
    fewer = engine.ask("media.film", film=lost)
    assert whole["grid"] == fewer["grid"] and not np.array_equal(whole["patches"], fewer["patches"])
    cut = {**given, "shown": given["shown"][:50], "frames": given["frames"][:50]}
    with pytest.raises(EngineError, match="it has 50 of 60 frames"):
        engine.ask("media.film", film=cut)


def test_joined_recordings(engine: Engine) -> None:
    """Time stamps that jump back, or forward in a transport stream, go on."""
    stamps = [0.0, 1.0, 2.0, 95000.0, 95001.0, 3.0, 4.0, 3.5]
    found = engine.ask("media.clock", stamps=stamps, joined=True)
    assert found == pytest.approx([0, 1, 2, 2, 3, 3, 4, 3.5])
    forward = engine.ask("media.clock", stamps=stamps[:4], joined=False)
    assert forward == pytest.approx(stamps[:4])


# Animated WebP


def animations() -> dict[str, tuple[list[Image.Image], dict[str, Any]]]:
    """Return frames and options of animations: opaque and transparent, cut and blended."""
    draw = np.random.default_rng(0)
    opaque = [Image.fromarray(frame(4 * i)) for i in range(12)]
    ghosts: list[Image.Image] = []
    for i in range(12):
        pixels = np.zeros((48, 64, 4), np.uint8)
        box = np.s_[2 * i : 2 * i + 20, 3 * i : 3 * i + 25]
        pixels[box] = draw.integers(0, 256, pixels[box].shape)
        ghosts.append(Image.fromarray(pixels))
    lengths = [100] * 6 + [900] * 6
    return {
        "opaque": (opaque, {"duration": lengths, "lossless": True}),
        "lossy": ([Image.fromarray(picture(48, 64, i)) for i in range(4)], {"duration": 300}),
        "transparent": (ghosts, {"duration": lengths, "lossless": True, "exact": True}),
        "transparent, lossy": (ghosts, {"duration": 250, "allow_mixed": True}),
        "small": (ghosts, {"duration": 400, "minimize_size": True, "lossless": True}),
        "key frames": (ghosts, {"duration": 400, "kmin": 1, "kmax": 3, "lossless": True}),
    }


@pytest.mark.parametrize("name", animations())
def test_an_animated_webp_is_a_film(engine: Engine, vision: VisionConfig, name: str) -> None:
    """The file is cut into still pictures; what they make together is what libwebp makes."""
    frames, options = animations()[name]
    data = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], **options)
    file = np.frombuffer(data, np.uint8)
    files = engine.ask("media.webp", file=file, stills=None)
    stills = [np.asarray(Image.open(io.BytesIO(one.tobytes())).convert("RGBA")) for one in files]
    found = engine.ask("media.webp", file=file, stills=stills)
    same_film(found, load_video(data, vision), vision)


@pytest.mark.parametrize("disposed", [False, True])
def test_frames_of_a_webp_are_blended(engine: Engine, vision: VisionConfig, disposed: bool) -> None:
    """Half-transparent frames over each other, whose areas are cleared or not."""
    frames, _ = animations()["transparent"]
    data = bytearray(
        saved(
            frames[0], "WEBP", save_all=True, append_images=frames[1:], duration=300, lossless=True
        )
    )
    at = 12
    while at < len(data):  # the encoder chooses; all combinations are to be decoded
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"ANMF":
            data[at + 23] = int(disposed)  # blended
        at += 8 + size + size % 2
    file = np.frombuffer(bytes(data), np.uint8)
    files = engine.ask("media.webp", file=file, stills=None)
    stills = [np.asarray(Image.open(io.BytesIO(one.tobytes())).convert("RGBA")) for one in files]
    found = engine.ask("media.webp", file=file, stills=stills)
    same_film(found, load_video(bytes(data), vision), vision)


def test_other_webp_files(engine: Engine) -> None:
    frames, options = animations()["opaque"]
    still = saved(frames[0], "WEBP")
    assert engine.ask("media.webp", file=np.frombuffer(still, np.uint8), stills=None) is None
    whole = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], **options)
    with pytest.raises(EngineError, match="damaged"):
        engine.ask("media.webp", file=np.frombuffer(whole[:60], np.uint8), stills=None)
