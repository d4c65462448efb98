"""Sinks of speech: a wav file, a stream (standard output, a FIFO, a device), or the loudspeaker.

A file is FILE.partial until the speech is complete. A stream is written as speech is synthesized.
Playback does not block synthesis.
"""

import importlib
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO, NoReturn, Protocol

from omni_runtime.arrays import FloatArray
from omni_runtime.atomic_file import AtomicFile
from omni_runtime.errors import OmniError, UsageError
from omni_runtime.wav import UNKNOWN_LENGTH, pcm16, wav_header


class Sink(Protocol):
    """Receives speech chunk by chunk."""

    def write(self, samples: FloatArray, rate: int) -> None:
        """Write a chunk of speech, float32 (n,) in -1 .. 1 at `rate` Hz."""
        ...

    def close(self, *, keep: bool) -> None:
        """End the speech. With `keep` False discard it."""
        ...


class WavFile:
    """A 16-bit mono wav file. `kept`: whether a file was written; not for empty speech."""

    def __init__(self, path: Path) -> None:
        """Create the temporary file. Raises OmniError if it cannot be written."""
        self.path = path
        self.kept = False
        self._rate = 0
        self._bytes = 0
        if path.is_dir():
            raise OmniError(f"{path} is a folder", fix="give -o the name of a wav file")
        try:
            self._target = AtomicFile(path)
        except OSError as error:
            self._fail(error)

    def write(self, samples: FloatArray, rate: int) -> None:
        """Append samples. On a full disk remove the file and raise OmniError."""
        data = pcm16(samples)
        try:
            if not self._rate:
                self._target.file.write(wav_header(rate, 0))
            self._target.file.write(data)
        except OSError as error:
            self.close(keep=False)
            self._fail(error)
        self._rate = rate
        self._bytes += len(data)

    def close(self, *, keep: bool) -> None:
        try:
            if keep and self._rate:
                self._target.file.seek(0)
                self._target.file.write(wav_header(self._rate, self._bytes))
                self._target.commit()
                self.kept = True
        except OSError as error:
            self._fail(error)
        finally:
            self._target.discard()

    def _fail(self, error: OSError) -> NoReturn:
        raise OmniError(
            f"{self.path} cannot be written: {error.strerror}",
            fix="free some space, or give another -o",
        ) from None


class WavPipe:
    """A wav stream on standard output, one for all replies."""

    def __init__(self, out: BinaryIO | None = None) -> None:
        """Raises UsageError if standard output is a terminal."""
        self._started = False
        if out is None and sys.stdout.isatty():
            raise UsageError("-o - would write audio to a terminal", fix="pipe it into a player")
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
    """A wav stream to a FIFO or a device, one for each reply."""

    def __init__(self, path: Path) -> None:
        """Open the path; a FIFO blocks until it has a reader. Raises OmniError if that fails."""
        try:
            self._file = path.open("wb")
        except OSError as error:
            raise OmniError(
                f"{path} cannot be written: {error.strerror}", fix="give another -o"
            ) from None
        super().__init__(self._file)

    def close(self, *, keep: bool) -> None:  # noqa: ARG002 - written data cannot be discarded
        with suppress(OSError):  # all data was flushed, or the error was raised
            self._file.close()


class Loudspeaker:
    """The default output device. sounddevice calls back for samples on its own thread."""

    def __init__(self, sounddevice: Any) -> None:
        self._sounddevice = sounddevice
        self._stream: Any = None
        self._queue: deque[FloatArray] = deque()
        self._ended = False
        self._finished = Event()

    def write(self, samples: FloatArray, rate: int) -> None:
        """Queue samples for playback. Raises OmniError if the device fails."""
        self._queue.append(samples)
        if self._stream is None:
            try:
                self._stream = self._sounddevice.OutputStream(
                    samplerate=rate,
                    channels=1,
                    dtype="float32",
                    callback=self._play,
                    finished_callback=self._finished.set,
                )
                self._stream.start()
            except self._sounddevice.PortAudioError as error:
                raise OmniError(
                    f"the loudspeaker failed: {str(error).splitlines()[0]}", fix="-o answer.wav"
                ) from None

    def close(self, *, keep: bool) -> None:
        """Wait until the queue was played. With `keep` False stop at once."""
        if self._stream is None:
            return
        self._ended = True
        while keep and not self._finished.wait(0.1):  # on Windows Ctrl-C does not interrupt a wait
            pass
        self._stream.abort()
        self._stream.close()
        self._stream = None

    def _play(self, out: FloatArray, frames: int, _time: object, _status: object) -> None:
        """Fill `out` (frames, 1) from the queue, then with silence. Runs on the device's thread."""
        filled = 0
        while filled < frames and self._queue:
            piece = self._queue.popleft()
            count = min(len(piece), frames - filled)
            out[filled : filled + count, 0] = piece[:count]
            if count < len(piece):
                self._queue.appendleft(piece[count:])
            filled += count
        out[filled:] = 0
        if self._ended and not self._queue:
            raise self._sounddevice.CallbackStop


def loudspeaker() -> Loudspeaker | str:
    """Open the loudspeaker, or return the reason why that fails."""
    try:
        sounddevice = importlib.import_module("sounddevice")
        sounddevice.query_devices(kind="output")
    except ImportError:
        return 'sounddevice is not installed (pip install "pocket-omni[talk]")'
    except Exception as error:  # PortAudio is missing, or there is no device
        return f"no audio device: {str(error).splitlines()[0]}"
    return Loudspeaker(sounddevice)
