"""Output files: links are followed, devices are kept, regular files are replaced atomically."""

import io
import os
import stat
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from omni_runtime.atomic_file import write_bytes
from omni_runtime.bench import plots
from omni_runtime.cli.audio_output import AudioOutput

RATE = 24000
SOUND = np.linspace(-1, 1, 2400, dtype=np.float32)
UNIX = pytest.mark.skipif(sys.platform == "win32", reason="has no such files")


def speak(path: Path, *, keep: bool = True) -> None:
    sink = AudioOutput(str(path), play=False, quiet=True).open()
    assert sink is not None
    sink.write(SOUND, RATE)
    sink.close(keep=keep)


def draw(path: Path) -> None:
    plot = plots.load_pyplot()
    plots._save(plot, plot.figure(), path)


def write(path: Path) -> None:
    write_bytes(path, b"new")


WRITERS = pytest.mark.parametrize("writer", [speak, draw, write])


@UNIX
@WRITERS
def test_a_fifo_is_written_to_and_kept(writer: Callable[[Path], None], tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for _ in range(2):
        read: list[bytes] = []
        reader = Thread(target=lambda into: into.append(fifo.read_bytes()), args=(read,))
        reader.start()
        writer(fifo)
        reader.join(30)
        assert read[0]
        assert stat.S_ISFIFO(fifo.stat().st_mode)
        assert [path.name for path in tmp_path.iterdir()] == ["fifo"]
        if writer is speak:
            with wave.open(io.BytesIO(read[0])) as sound:
                assert (sound.getframerate(), len(sound.readframes(1 << 20))) == (RATE, 4800)


@UNIX
@WRITERS
def test_a_terminal_device_is_written_to(writer: Callable[[Path], None], tmp_path: Path) -> None:
    import pty  # noqa: PLC0415 - there is none on Windows
    import tty  # noqa: PLC0415

    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    device = tmp_path / "device"  # by a link: the folder of the devices is left alone
    device.symlink_to(os.ttyname(theirs))
    read: list[bytes] = []

    def drain() -> None:
        while not read or b"\0end" not in read[-1]:
            read.append(os.read(ours, 65536))

    reader = Thread(target=drain)
    reader.start()
    writer(device)
    os.write(theirs, b"\0end")
    reader.join(30)
    assert len(b"".join(read)) > 4
    assert device.is_symlink() and device.is_char_device()
    assert [path.name for path in tmp_path.iterdir()] == ["device"]
    os.close(ours)
    os.close(theirs)


@WRITERS
@pytest.mark.parametrize("there", [True, False])
def test_a_symbolic_link_is_followed_and_kept(
    writer: Callable[[Path], None], there: bool, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    if there:
        (tmp_path / "disk" / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "file")
    writer(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "file").read_bytes() not in (b"", b"old")
    assert len(list(tmp_path.rglob("*"))) == 3


def test_a_file_is_replaced_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    (tmp_path / "file.partial").write_bytes(b"mine")
    speak(path, keep=False)
    assert path.read_bytes() == b"old"

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            write(path)
    assert path.read_bytes() == b"old"
    if sys.platform != "win32":
        path.chmod(0o600)
    write(path)
    assert path.read_bytes() == b"new"
    assert sys.platform == "win32" or stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (tmp_path / "file.partial").read_bytes() == b"mine"
    assert len(list(tmp_path.iterdir())) == 2


@UNIX
def test_a_fifo_counts_as_playback(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert AudioOutput(str(tmp_path / "fifo"), play=False, quiet=True).is_live
    assert not AudioOutput(str(tmp_path / "file"), play=False, quiet=True).is_live
