"""Recording a question from the default microphone, through sounddevice."""

import importlib
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Any

import numpy as np
import numpy.typing as npt

from omni_runtime.errors import OmniError
from omni_runtime.inputs.media import Samples

INSTEAD = "record a file with another program, then /audio FILE"
EVERY_SECONDS = 1.0


def record(wait: Callable[[], object], listen: Callable[[Samples], object]) -> Samples:
    """Mono float32 samples and their rate, recorded until `wait` returns.

    Meanwhile `listen` is given all that was recorded so far, again and again, in a thread of its
    own that ends before this function does. An OmniError of it is dropped: whoever uses the whole
    recording will meet it again. Raises OmniError without a microphone, or if nothing came from it.
    """
    try:
        sounddevice: Any = importlib.import_module("sounddevice")
    except (ImportError, OSError):  # OSError: installed, but PortAudio is not
        raise OmniError(
            "recording needs sounddevice and PortAudio", fix='pip install "pocket-omni[talk]"'
        ) from None
    pieces: list[npt.NDArray[np.float32]] = []

    def keep(data: npt.NDArray[np.float32], _frames: int, _time: object, _status: object) -> None:
        pieces.append(data[:, 0].copy())

    try:
        rate = int(sounddevice.query_devices(kind="input")["default_samplerate"])
        stream = sounddevice.InputStream(
            samplerate=rate, channels=1, dtype="float32", callback=keep
        )
        with _listening(pieces, rate, listen), stream:
            wait()
    except (sounddevice.PortAudioError, ValueError) as error:
        raise OmniError(
            f"there is no microphone: {str(error).splitlines()[0]}", fix=INSTEAD
        ) from None
    if not pieces:
        raise OmniError("nothing came from the microphone", fix=INSTEAD)
    return np.concatenate(pieces), rate


@contextmanager
def _listening(
    pieces: list[npt.NDArray[np.float32]], rate: int, listen: Callable[[Samples], object]
) -> Generator[None]:
    over = Event()

    def follow() -> None:
        heard = 0
        while not over.wait(EVERY_SECONDS):
            count = len(pieces)
            if count > heard:
                heard = count
                with suppress(OmniError):
                    listen((np.concatenate(pieces[:count]), rate))

    thread = Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
