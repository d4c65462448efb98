"""Recordings that people have: trims, holes, variable rates, late tracks, tracks without use."""

import logging
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from inputs.reference import VISION
from inputs.samples import frame, sweep, write_media
from omni_runtime.errors import MediaError
from omni_runtime.inputs.media import TrackError, load_audio
from omni_runtime.inputs.video import load_video

MILLISECONDS = Fraction(1, 1000)


def copied(
    source: Path, target: Path, move: Callable[[av.Packet], float | None], **options: str
) -> Path:
    """Copy the packets of a file, each moved by `move` seconds, or left out."""
    with av.open(str(source)) as old, av.open(str(target), "w", options=options) as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            seconds = move(packet) if packet.size else None
            if seconds is None:
                continue
            packet.stream = streams[packet.stream.index]
            ticks = round(seconds / packet.time_base)
            packet.pts += ticks
            packet.dts = None if packet.dts is None else packet.dts + ticks
            new.mux(packet)
    return target


def screen(path: Path, times: Sequence[float], codec: str = "libvpx") -> Path:
    """Encode a frame whose brightness is its number, at each of `times` in seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1000)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.time_base = MILLISECONDS
        for i, seconds in enumerate(times):
            image = av.VideoFrame.from_ndarray(frame(4 * i), format="rgb24")
            image.pts, image.time_base = round(1000 * seconds), MILLISECONDS
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
    return path


def numbers(path: Path) -> list[int]:
    """Return which of `screen`'s frames are sampled."""
    return np.rint(load_video(path, VISION).frames.mean(axis=(1, 2, 3)) / 12).astype(int).tolist()


@pytest.mark.parametrize(
    ("suffix", "codec"), [("webm", "libopus"), ("m4a", "aac"), ("mka", "flac"), ("ogg", "libopus")]
)
def test_a_hole_in_the_time_stamps_is_silence(tmp_path: Path, suffix: str, codec: str) -> None:
    sound = 0.3 * np.sin(np.arange(6 * 48000) / 20)
    whole = write_media(tmp_path / f"whole.{suffix}", sound=sound, audio_codec=codec)
    path = copied(whole, tmp_path / f"a.{suffix}", lambda p: 4.0 * (p.pts * p.time_base >= 3))
    made = load_audio(path)
    assert len(made) == pytest.approx(10 * 16000, abs=1600)
    loud = np.abs(made[: 16000 * 9]).reshape(-1, 1600).mean(axis=1) > 0.01
    assert loud[:29].all() and not loud[31:69].any() and loud[71:].all()
    with pytest.raises(MediaError, match="longer than 8 s"):
        load_audio(path, max_seconds=8)


def test_a_lossless_trim(tmp_path: Path) -> None:
    """Packets before the edit list are decoded, not shown, and are no loss at the end."""
    whole = write_media(
        tmp_path / "whole.mp4", frames=[frame(2 * i) for i in range(75)], sound=sweep(3, 48000)
    )

    def earlier(packet: av.Packet) -> float | None:
        return -1.0 if packet.pts * packet.time_base < 3 else None

    path = copied(whole, tmp_path / "a.mp4", earlier, avoid_negative_ts="disabled")
    clip = load_video(path, VISION)
    assert clip.duration == pytest.approx(2.0)
    assert clip.audio is not None and len(clip.audio) == pytest.approx(32000, abs=1600)
    np.testing.assert_allclose(clip.frames.mean(axis=(1, 2, 3))[0], 6 * 25, atol=4)


@pytest.mark.parametrize("extra", [1, 8])
@pytest.mark.parametrize("chunk", [b"RIFF", b"data"])
def test_riff_sizes_that_are_too_large(tmp_path: Path, extra: int, chunk: bytes) -> None:
    path = write_media(tmp_path / "a.wav", sound=sweep(1), rate=16000, audio_codec="pcm_s16le")
    data = bytearray(path.read_bytes())
    where = data.index(chunk) + 4
    size = int.from_bytes(data[where : where + 4], "little")
    data[where : where + 4] = (size + extra).to_bytes(4, "little")
    np.testing.assert_array_equal(load_audio(bytes(data)), load_audio(path))
    with pytest.raises(MediaError, match="truncated"):
        load_audio(bytes(data[:-100]))


def test_variable_rates(tmp_path: Path) -> None:
    """Ten quick frames, then one a second: each is sampled for as long as it is shown."""
    times = [i / 25 for i in range(10)] + [float(i) for i in range(1, 11)]
    path = screen(tmp_path / "a.webm", times)
    clip = load_video(path, VISION)
    assert clip.duration == pytest.approx(10.5, abs=0.6)
    assert clip.fps == 2.0
    found = numbers(path)
    assert found[0] == 0 and found[-1] >= 18 and sorted(found) == found
    assert set(found) >= set(range(10, 19))
    jitter = np.random.default_rng(0).uniform(-0.01, 0.01, 150)
    path = screen(tmp_path / "b.webm", (np.arange(150) / 15 + 0.02 + jitter).tolist())
    assert load_video(path, VISION).duration == pytest.approx(10, abs=0.2)
    assert len(load_video(path, VISION).frames) == 20


def test_a_screen_that_hardly_changes(tmp_path: Path) -> None:
    found = numbers(screen(tmp_path / "a.mkv", [0, 5, 50, 60], "mpeg4"))
    assert len(found) == 122
    assert [found.count(i) for i in range(4)] == pytest.approx([10, 90, 20, 2], abs=2)


@pytest.mark.parametrize("late", ["video", "audio"])
def test_tracks_that_start_late(tmp_path: Path, late: str) -> None:
    whole = write_media(
        tmp_path / "whole.mkv",
        frames=[frame(2 * i) for i in range(75)],
        sound=sweep(3, 48000) + np.float32(0.1),
        audio_codec="flac",
    )
    path = copied(whole, tmp_path / "a.mkv", lambda p: 2.0 * (p.stream.type == late))
    clip = load_video(path, VISION)
    assert clip.audio is not None
    if late == "audio":
        assert len(clip.audio) == pytest.approx(5 * 16000, abs=1600)
        assert np.abs(clip.audio[: 16000 * 19 // 10]).max() == 0
        assert clip.duration == pytest.approx(3, abs=0.1)
    else:
        assert len(clip.audio) == pytest.approx(3 * 16000, abs=1600)
        assert clip.duration == pytest.approx(5, abs=0.1)
        means = clip.frames.mean(axis=(1, 2, 3))
        assert means[:3].max() < 10 < means[5]  # the first picture stands for what is not there


@pytest.mark.parametrize(
    ("suffix", "video", "audio"), [("mkv", "libx264", "aac"), ("webm", "libvpx", "libopus")]
)
def test_an_empty_audio_track(
    tmp_path: Path, suffix: str, video: str, audio: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = write_media(
        tmp_path / f"whole.{suffix}",
        frames=[frame(i) for i in range(50)],
        video_codec=video,
        sound=sweep(2, 48000),
        audio_codec=audio,
    )
    path = copied(
        whole, tmp_path / f"a.{suffix}", lambda p: 0.0 if p.stream.type == "video" else None
    )
    clip = load_video(path, VISION)
    assert clip.audio is None and len(clip.frames) == 4
    assert "its length is zero; the video is used without its audio" in caplog.text
    with pytest.raises(TrackError, match="its length is zero"):
        load_audio(path)


def test_audio_of_an_unknown_codec(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As telephones write it beside, or instead of, a track that everybody can play."""
    sound = sweep(2, 48000)
    path = write_media(tmp_path / "a.mp4", frames=[frame(i) for i in range(50)], sound=sound)
    unknown = path.read_bytes().replace(b"mp4a", b"apac").replace(b"esds", b"dapa")
    clip = load_video(unknown, VISION)
    assert clip.audio is None and len(clip.frames) == 4
    assert caplog.messages == [
        "the given data has an unsupported codec; the video is used without its audio"
    ]
    with pytest.raises(TrackError, match="unsupported codec"):
        load_audio(unknown)
    caplog.clear()
    two = tmp_path / "two.mp4"
    with av.open(str(path)) as old, av.open(str(two), "w") as new:
        tracks = [new.add_stream_from_template(old.streams.audio[0]) for _ in range(2)]
        for packet in old.demux(audio=0):
            if packet.dts is not None:
                for track in tracks:
                    copy = av.Packet(bytes(packet))
                    copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
                    copy.time_base, copy.stream = packet.time_base, track
                    new.mux(copy)
    first = two.read_bytes().replace(b"mp4a", b"apac", 1).replace(b"esds", b"dapa", 1)
    np.testing.assert_array_equal(load_audio(first), load_audio(two))
    assert caplog.records[0].levelno == logging.WARNING
    assert "unsupported codec; audio track 2 is used" in caplog.text
