"""Record a message from the default microphone, with sounddevice."""

import importlib
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from threading import Event, Thread
from typing import Any

from omni_runtime.arrays import FloatArray
from omni_runtime.errors import OmniError
from omni_runtime.inputs.audio_stream import AudioStream

INSTEAD = "record a file with another program and attach it with /audio FILE"
LISTEN_INTERVAL = 1.0
"""Seconds."""


def record(
    stream: AudioStream, wait: Callable[[], object], listen: Callable[[AudioStream], object]
) -> None:
    """Record mono float32 into `stream` until `wait` returns, then finish it.

    Meanwhile a thread calls `listen(stream)` about once a second if there are new samples. The
    thread ends before this function returns. An OmniError of `listen` is dropped, since sending the
    complete recording raises it again. Any other exception is raised at the end. Raises OmniError
    without a microphone, or if nothing was recorded.
    """
    try:
        sounddevice: Any = importlib.import_module("sounddevice")
    except (ImportError, OSError):  # OSError: installed, but PortAudio is not
        raise OmniError(
            "recording needs sounddevice and PortAudio", fix='pip install "pocket-omni[talk]"'
        ) from None

    try:
        with _listening(stream, listen), _opened(sounddevice, stream):
            wait()
    except sounddevice.PortAudioError as error:
        raise _no_microphone(error) from None
    stream.finish()
    if not stream.seconds:
        raise OmniError("the microphone recorded nothing", fix=INSTEAD)


def _opened(sounddevice: Any, stream: AudioStream) -> AbstractContextManager[object]:
    """Open the microphone; it records while the context lasts."""
    try:
        rate = int(sounddevice.query_devices(kind="input")["default_samplerate"])

        def push(data: FloatArray, *_: object) -> None:
            stream.push(data[:, 0], rate)

        return sounddevice.InputStream(samplerate=rate, channels=1, dtype="float32", callback=push)
    except ValueError as error:
        raise _no_microphone(error) from None


def _no_microphone(error: Exception) -> OmniError:
    return OmniError(f"there is no microphone: {str(error).splitlines()[0]}", fix=INSTEAD)


@contextmanager
def _listening(stream: AudioStream, listen: Callable[[AudioStream], object]) -> Generator[None]:
    stopped = Event()
    failures: list[BaseException] = []

    def follow() -> None:
        processed = 0.0
        try:
            while not stopped.wait(LISTEN_INTERVAL):
                if stream.seconds > processed:
                    processed = stream.seconds
                    with suppress(OmniError):
                        listen(stream)
        except BaseException as error:
            failures.append(error)

    thread = Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
    if failures:
        raise failures[0]
