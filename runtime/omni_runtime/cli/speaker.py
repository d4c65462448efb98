"""Where speech goes: a wav file, a stream (standard output, a FIFO, a device), or the loudspeakers.

A file gets its name only when the speech is whole; until then it is FILE.partial. A stream is
written as the speech comes. Playing never holds up the making of more speech.
"""

import importlib
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO, NoReturn, Protocol

import numpy as np

from omni_runtime.arrays import FloatArray
from omni_runtime.atomic_file import AtomicFile
from omni_runtime.errors import OmniError, UsageError

UNKNOWN_LENGTH = 0x7FFFF000
"""Bytes that a wav header on a pipe promises, since nobody knows yet."""


class Sink(Protocol):
    """Takes speech as it comes."""

    def write(self, samples: FloatArray, rate: int) -> None:
        """Take a piece of speech, float32 in -1 .. 1."""
        ...

    def close(self, *, keep: bool) -> None:
        """End the speech; what `keep` is False for is thrown away."""
        ...


class WavFile:
    """A 16-bit mono wav file. `kept` tells whether there was any speech, and it was kept."""

    def __init__(self, path: Path) -> None:
        """Raises OmniError at once when the place can't be written to."""
        self.path = path
        self.kept = False
        self._rate = 0
        self._bytes = 0
        if path.is_dir():
            raise OmniError(f"{path} is a folder", fix="give -o the name of a wav file")
        try:
            self._made = AtomicFile(path)
        except OSError as error:
            self._fail(error)

    def write(self, samples: FloatArray, rate: int) -> None:
        """Append samples. Raises OmniError, with nothing left behind, when the disk is full."""
        data = pcm16(samples)
        try:
            if not self._rate:
                self._made.file.write(wav_header(rate, 0))
            self._made.file.write(data)
        except OSError as error:
            self.close(keep=False)
            self._fail(error)
        self._rate = rate
        self._bytes += len(data)

    def close(self, *, keep: bool) -> None:
        try:
            if keep and self._rate:
                self._made.file.seek(0)
                self._made.file.write(wav_header(self._rate, self._bytes))
                self._made.commit()
                self.kept = True
        except OSError as error:
            self._fail(error)
        finally:
            self._made.discard()

    def _fail(self, error: OSError) -> NoReturn:
        raise OmniError(
            f"{self.path} can't be written: {error.strerror}",
            fix="free some space, or give another -o",
        ) from None


class WavPipe:
    """A wav stream for another program to read: standard output, for all answers together."""

    def __init__(self, out: BinaryIO | None = None) -> None:
        """Raises UsageError when standard output is a terminal."""
        self._started = False
        if out is None and sys.stdout.isatty():
            raise UsageError("-o - writes sound to a terminal", fix="pipe it into a player")
        self._out = out or sys.stdout.buffer

    def write(self, samples: FloatArray, rate: int) -> None:
        if not self._started:
            self._out.write(wav_header(rate, UNKNOWN_LENGTH))
            self._started = True
        self._out.write(pcm16(samples))
        self._out.flush()

    def close(self, *, keep: bool) -> None:
        pass


class WavDevice(WavPipe):
    """A wav stream into a FIFO or a device, one for each answer. There is nothing to replace."""

    def __init__(self, path: Path) -> None:
        """Open it, which waits for the reader of a FIFO. Raises OmniError when it is refused."""
        try:
            self._file = path.open("wb")
        except OSError as error:
            raise OmniError(
                f"{path} can't be written: {error.strerror}", fix="give another -o"
            ) from None
        super().__init__(self._file)

    def close(self, *, keep: bool) -> None:  # noqa: ARG002 - what was written is gone
        with suppress(OSError):  # everything was flushed, or its failure was raised
            self._file.close()


class Loudspeaker:
    """The default output device, through sounddevice, which asks for samples when it needs some."""

    def __init__(self, sounddevice: Any) -> None:
        self._sounddevice = sounddevice
        self._stream: Any = None
        self._waiting: deque[FloatArray] = deque()
        self._ended = False
        self._silent = Event()

    def write(self, samples: FloatArray, rate: int) -> None:
        """Add samples to what will be heard. Raises OmniError when the device fails."""
        self._waiting.append(samples)
        if self._stream is None:
            try:
                self._stream = self._sounddevice.OutputStream(
                    samplerate=rate,
                    channels=1,
                    dtype="float32",
                    callback=self._play,
                    finished_callback=self._silent.set,
                )
                self._stream.start()
            except self._sounddevice.PortAudioError as error:
                raise OmniError(
                    f"the loudspeaker failed: {str(error).splitlines()[0]}", fix="-o answer.wav"
                ) from None

    def close(self, *, keep: bool) -> None:
        """Wait until everything was heard, or with `keep` False fall silent at once."""
        if self._stream is None:
            return
        self._ended = True
        while keep and not self._silent.wait(0.1):  # in pieces: Windows delivers no Ctrl-C inside
            pass
        self._stream.abort()
        self._stream.close()
        self._stream = None

    def _play(self, out: FloatArray, frames: int, _time: object, _status: object) -> None:
        """Fill `out` (frames, 1), on the device's own thread; silence where nothing is ready."""
        filled = 0
        while filled < frames and self._waiting:
            piece = self._waiting.popleft()
            count = min(len(piece), frames - filled)
            out[filled : filled + count, 0] = piece[:count]
            if count < len(piece):
                self._waiting.appendleft(piece[count:])
            filled += count
        out[filled:] = 0
        if self._ended and not self._waiting:
            raise self._sounddevice.CallbackStop


def loudspeaker() -> Loudspeaker | str:
    """The loudspeaker, or why there is none."""
    try:
        sounddevice = importlib.import_module("sounddevice")
        sounddevice.query_devices(kind="output")
    except ImportError:
        return 'sounddevice is not installed (pip install "pocket-omni[talk]")'
    except Exception as error:  # PortAudio missing, or no device
        return f"no audio device: {str(error).splitlines()[0]}"
    return Loudspeaker(sounddevice)


def pcm16(samples: FloatArray) -> bytes:
    """Little-endian 16-bit samples."""
    return np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def wav_header(rate: int, length: int) -> bytes:
    """Header of a 16-bit mono wav with `length` bytes of samples."""

    def word(number: int, size: int = 4) -> bytes:
        return number.to_bytes(size, "little")

    form = word(1, 2) + word(1, 2) + word(rate) + word(2 * rate) + word(2, 2) + word(16, 2)
    head = b"RIFF" + word(length + 36) + b"WAVEfmt " + word(16)
    return head + form + b"data" + word(length)
