"""Where speech goes: a wav file, standard output, or the loudspeakers.

A file gets its name only when the speech is whole; until then it is FILE.partial.
"""

import importlib
import sys
import wave
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from omni_runtime.errors import OmniError

Samples = npt.NDArray[np.float32]

UNKNOWN_LENGTH = 0x7FFFF000
"""Bytes that a wav header on a pipe promises, since nobody knows yet."""


class Sink(Protocol):
    """Takes speech as it comes."""

    def write(self, samples: Samples, rate: int) -> None:
        """Take a piece of speech, float32 in -1 .. 1."""
        ...

    def close(self, *, keep: bool) -> None:
        """End the speech; what `keep` is False for is thrown away."""
        ...


class WavFile:
    """A 16-bit mono wav file."""

    def __init__(self, path: Path) -> None:
        """Raises OmniError at once when the place can't be written to."""
        self.path = path
        self._partial = path.with_name(path.name + ".partial")
        self._wave: wave.Wave_write | None = None
        if path.is_dir():
            raise OmniError(f"{path} is a folder", fix="give -o the name of a wav file")
        try:
            self._file: BinaryIO = self._partial.open("wb")
        except OSError as error:
            raise OmniError(
                f"{path} can't be written: {error.strerror}", fix="give another -o"
            ) from None

    def write(self, samples: Samples, rate: int) -> None:
        if self._wave is None:
            self._wave = wave.open(self._file, "wb")  # noqa: SIM115 - closed with the reply
            self._wave.setnchannels(1)
            self._wave.setsampwidth(2)
            self._wave.setframerate(rate)
        try:
            self._wave.writeframes(pcm16(samples))
        except OSError as error:
            self.close(keep=False)
            raise OmniError(
                f"{self.path} can't be written: {error.strerror}",
                fix="free some space or give another -o",
            ) from None

    def close(self, *, keep: bool) -> None:
        keep = keep and self._wave is not None
        try:
            if self._wave is not None and keep:
                self._wave.close()
            self._file.close()
            if keep:
                self._partial.replace(self.path)
        finally:
            self._partial.unlink(missing_ok=True)


class WavPipe:
    """A wav stream on standard output, for another program to read."""

    def __init__(self) -> None:
        self._started = False

    def write(self, samples: Samples, rate: int) -> None:
        out = sys.stdout.buffer
        if not self._started:
            out.write(_wav_header(rate))
            self._started = True
        out.write(pcm16(samples))
        out.flush()

    def close(self, *, keep: bool) -> None:
        pass


class Loudspeaker:
    """The default output device, through sounddevice."""

    def __init__(self, sounddevice: Any) -> None:
        self._sounddevice = sounddevice
        self._stream: Any = None

    def write(self, samples: Samples, rate: int) -> None:
        if self._stream is None:
            self._stream = self._sounddevice.OutputStream(
                samplerate=rate, channels=1, dtype="float32"
            )
            self._stream.start()
        self._stream.write(samples.reshape(-1, 1))

    def close(self, *, keep: bool) -> None:
        if self._stream is not None:
            if keep:
                self._stream.stop()
            else:
                self._stream.abort()
            self._stream.close()
            self._stream = None


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


def free_name(folder: Path) -> Path:
    """answer.wav in the folder, or the first answer-N.wav that does not exist."""
    candidates = (f"answer-{number}.wav" for number in range(2, 10000))
    names = ["answer.wav", *candidates]
    return next(folder / name for name in names if not (folder / name).exists())


def pcm16(samples: Samples) -> bytes:
    """Little-endian 16-bit samples."""
    return np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def _wav_header(rate: int) -> bytes:
    def word(number: int, size: int = 4) -> bytes:
        return number.to_bytes(size, "little")

    form = word(1, 2) + word(1, 2) + word(rate) + word(2 * rate) + word(2, 2) + word(16, 2)
    head = b"RIFF" + word(UNKNOWN_LENGTH + 36) + b"WAVEfmt " + word(16)
    return head + form + b"data" + word(UNKNOWN_LENGTH)
