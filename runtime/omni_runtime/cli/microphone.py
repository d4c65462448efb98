"""Recording a question from the default microphone, through sounddevice."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from omni_runtime.errors import OmniError
from omni_runtime.inputs.media import Samples

INSTEAD = "record a file with another program, then /audio FILE"


def record(wait: Callable[[], object]) -> Samples:
    """Mono float32 samples and their rate, recorded until `wait` returns.

    Raises OmniError when there is no microphone, or nothing came from it.
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
        with sounddevice.InputStream(samplerate=rate, channels=1, dtype="float32", callback=keep):
            wait()
    except (sounddevice.PortAudioError, ValueError) as error:
        raise OmniError(
            f"there is no microphone: {str(error).splitlines()[0]}", fix=INSTEAD
        ) from None
    if not pieces:
        raise OmniError("nothing came from the microphone", fix=INSTEAD)
    return np.concatenate(pieces), rate
