"""Every invalid media file raises a MediaError of one line, and nothing is printed."""

import errno
import io
import math
import os
import subprocess
import sys
import wave
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import omni_runtime
from inputs.reference import VISION
from inputs.samples import frame, picture, sweep, write_media
from omni_runtime.errors import MediaError
from omni_runtime.inputs.image import load_image
from omni_runtime.inputs.media import load_audio
from omni_runtime.inputs.video import load_video


def loaders() -> dict:
    return {
        "sound": load_audio,
        "picture": load_image,
        "video": lambda source: load_video(source, VISION),
    }


def check(kind: str, source: object, words: str) -> None:
    with pytest.raises(MediaError, match=words) as caught:
        loaders()[kind](source)
    assert "\n" not in str(caught.value)
    assert "<none>" not in str(caught.value)


@pytest.mark.parametrize("kind", ["sound", "picture", "video"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"RIFF", "truncated"),
        (b"This is a letter, and no medium. " * 50, "cannot be read as|not an image"),
        (bytes(5000), "cannot be read as|not an image"),
        (np.random.default_rng(0).bytes(5000), "cannot be read as|not an image|holds no audio"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be read as|not an image"),
    ],
)
def test_files_that_are_not_media(tmp_path: Path, kind: str, content: bytes, words: str) -> None:
    path = tmp_path / "thing.bin"
    path.write_bytes(content)
    check(kind, path, words)
    check(kind, content, words)


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    other = write_media(tmp_path / "other.aac", sound=sweep(1, 48000))
    assert len(load_audio(other)) > 0
    playlist = tmp_path / "list.m3u8"
    playlist.write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nfile://{other}\n#EXT-X-ENDLIST\n"
    )
    check("sound", playlist, "cannot be read as audio")
    check("video", playlist, "cannot be read as video")


@pytest.mark.parametrize("kind", ["sound", "picture", "video"])
def test_invalid_paths(tmp_path: Path, kind: str) -> None:
    check(kind, tmp_path / "missing.wav", r"there is no file .*missing\.wav")
    check(kind, tmp_path, "is a folder")
    check(kind, "https://example.org/a.wav", "is a URL, and nothing is downloaded")
    check(kind, "a\0b.wav", "cannot be opened")


@pytest.mark.parametrize("kind", ["sound", "picture", "video"])
@pytest.mark.parametrize("good", [0, 8, 700])
def test_files_that_fail_while_they_are_read(tmp_path: Path, kind: str, good: int) -> None:
    class Broken(io.BytesIO):
        """A file on a disk that fails behind the first `good` bytes."""

        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() + (size if size and size > 0 else good + 1) > good:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(size)

    Image.fromarray(picture(90, 90)).save(tmp_path / "a.png")
    film = write_media(tmp_path / "a.mkv", sound=sweep(1, 48000), frames=[frame(1)] * 25)
    data = (tmp_path / "a.png" if kind == "picture" else film).read_bytes()
    check(kind, Broken(data), "cannot be read")


def test_files_that_are_open_in_another_way(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with (tmp_path / "a.wav").open() as text:
        check("sound", text, 'is open as text.*mode "rb"')
    check("sound", text.buffer, "cannot be read: .*closed file")


def test_media_of_another_kind(tmp_path: Path) -> None:
    wav = write_media(tmp_path / "a.wav", sound=sweep(0.2), rate=16000, audio_codec="pcm_s16le")
    silent = write_media(tmp_path / "a.mp4", frames=[frame(i) for i in range(5)])
    Image.fromarray(picture(20, 20)).save(tmp_path / "a.png")
    check("picture", wav, "not an image")
    check("video", wav, "no video track")
    check("sound", silent, "no audio track")
    check("sound", tmp_path / "a.png", "no audio track")


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("wav", "pcm_s16le"), ("flac", "flac"), ("mka", "flac"), ("webm", "libopus"), ("m4a", "aac")],
)
def test_truncated_audio(tmp_path: Path, suffix: str, codec: str) -> None:
    path = write_media(tmp_path / f"a.{suffix}", sound=sweep(3, 48000), audio_codec=codec)
    data = path.read_bytes()
    for part in (0.03, 0.5, 0.8):
        check("sound", data[: int(part * len(data))], "truncated|cannot be read as audio")


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "libx264"), ("webm", "libvpx"), ("avi", "mpeg4")]
)
def test_truncated_video(tmp_path: Path, suffix: str, codec: str) -> None:
    frames = [picture(48, 64, seed=i) for i in range(75)]
    data = write_media(tmp_path / f"a.{suffix}", frames=frames, video_codec=codec).read_bytes()
    for part in (0.03, 0.5, 0.7):
        check("video", data[: int(part * len(data))], "truncated|cannot be read as video")


def test_truncated_video_with_leading_index(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    frames = [picture(48, 64, seed=i) for i in range(75)]
    data = write_media(path, frames=frames).read_bytes()
    head, body, index = _boxes(data)
    moved = head + _shifted(index, len(index)) + body
    assert len(load_video(moved, VISION).frames) == 6
    check("video", moved[: len(moved) // 2], "truncated|cannot be read as video")


def _boxes(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Split an mp4 as libav writes it: ftyp and free, then mdat, then moov."""
    start, moov = data.index(b"mdat") - 4, data.index(b"moov") - 4
    return data[:start], data[start:moov], data[moov:]


def _shifted(moov: bytes, by: int) -> bytes:
    """Return the index with shifted chunk offsets, for a moov box before the data."""
    at = moov.index(b"stco") + 8
    count = int.from_bytes(moov[at : at + 4], "big")
    made = bytearray(moov)
    for i in range(at + 4, at + 4 + 4 * count, 4):
        made[i : i + 4] = (int.from_bytes(made[i : i + 4], "big") + by).to_bytes(4, "big")
    return bytes(made)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tiff"])
def test_truncated_images(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(picture(60, 80)).save(path)
    data = path.read_bytes()
    for part in (0.02, 0.5):
        check("picture", data[: int(part * len(data))], "damaged|not an image|truncated")


def test_damaged_files_raise_only_media_errors(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = tmp_path / "a.png"
    Image.fromarray(picture(20, 20)).save(image)
    files = {
        "picture": [image],
        "video": [write_media(tmp_path / "a.webm", frames=[frame(i) for i in range(9)],
                              video_codec="libvpx")],
        "sound": [
            write_media(tmp_path / "a.mp3", sound=sweep(0.3, 48000), audio_codec="libmp3lame"),
            write_media(tmp_path / "a.m4a", sound=sweep(0.3, 48000)),
            write_media(tmp_path / "a.flac", sound=sweep(0.3, 48000), audio_codec="flac"),
        ],
    }  # fmt: skip
    for kind, paths in files.items():
        for path in paths:
            for _ in range(25):
                data = bytearray(path.read_bytes())
                for at in rng.integers(0, len(data), 12):
                    data[at] = rng.integers(256)
                try:
                    loaders()[kind](bytes(data))
                except MediaError as error:
                    assert "\n" not in str(error)


def test_empty_and_non_finite_audio(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
    check("sound", tmp_path / "a.wav", "length is zero")
    check("sound", (np.zeros(0, np.float32), 16000), "length is zero")
    for value in (np.nan, np.inf, 1e300):
        check("sound", (np.array([0.0, value]), 16000), "NaN or infinite")
    nan = write_media(
        tmp_path / "nan.wav", sound=np.full(800, np.nan), rate=16000, audio_codec="pcm_f32le"
    )
    check("sound", nan, "NaN or infinite")


@pytest.mark.parametrize(
    "given",
    [
        (np.zeros((2, 2, 2)), 16000),
        (np.zeros(9), 0),
        (np.array(["a"]), 16000),
        (np.zeros(9), -5),
        (np.zeros(9), math.nan),
        (np.zeros(9), math.inf),
        (np.zeros(9), 2**31 - 1),
    ],
)
def test_invalid_sample_arrays(given: tuple[np.ndarray, int]) -> None:
    check("sound", given, "is not audio")


def test_audio_longer_than_the_limit(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.flac", sound=sweep(3), rate=16000, audio_codec="flac")
    assert len(load_audio(path, max_seconds=3)) == 48000
    for source in (path, (sweep(3), 16000)):
        with pytest.raises(MediaError, match="longer than 2 s"):
            load_audio(source, max_seconds=2)


def test_video_with_too_many_tokens(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", frames=[picture(120, 160)] * 50)
    assert len(load_video(path, VISION, max_tokens=8).frames) == 4
    with pytest.raises(MediaError, match="needs 8 tokens"):
        load_video(path, VISION, max_tokens=7)


def test_video_with_oversized_frames(tmp_path: Path) -> None:
    frames = [frame(i) for i in range(9)]
    data = bytearray(write_media(tmp_path / "a.gif", frames=frames, video_codec="gif").read_bytes())
    data[6:10] = (16_000).to_bytes(2, "little") * 2
    check("video", bytes(data), "frames of more than 35,389,440 pixels")


def test_decompression_bomb() -> None:
    size = 60_000
    header = size.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    content = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000)))):
        chunk = name + body
        content += len(body).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    check("picture", content, "too many pixels")


def test_decoders_print_nothing(tmp_path: Path) -> None:
    """libav prints nothing in a process without logging configuration."""
    path = write_media(tmp_path / "a.mp3", sound=sweep(0.5, 48000), audio_codec="libmp3lame")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 300] = bytes(300)
    (tmp_path / "b.mp3").write_bytes(data)
    (tmp_path / "c.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(500))
    script = (
        "import sys\n"
        "from omni_runtime.inputs.media import load_audio\n"
        "for name in sys.argv[1:]:\n"
        "    try: load_audio(name)\n"
        "    except Exception as error: assert type(error).__name__ == 'MediaError', error\n"
    )
    names = [str(tmp_path / name) for name in ("b.mp3", "c.mp4")]
    root = str(Path(omni_runtime.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script, *names],
        env={"PYTHONPATH": root},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
