"""A camera as a source of pictures, one a second, through FFmpeg's devices (PyAV)."""

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Thread
from time import monotonic
from typing import Any, Self

import av

from omni_runtime.errors import OmniError
from omni_runtime.inputs.messages import Image

INTERVAL = 1.0
"""Seconds between two frames that are kept."""
RETRY = 0.01
"""Seconds until a camera without a new frame is asked again."""


@dataclass(frozen=True)
class Driver:
    """An input device of FFmpeg. `default` is the camera without a name; None: the first listed."""

    format: str
    default: str | None
    prefix: str = ""
    options: dict[str, str] = field(default_factory=dict[str, str])

    def device(self, name: str) -> str:
        """Return FFmpeg's name of a camera, or of the default one. Raises OmniError."""
        if name != "default":
            return self.prefix + name.removeprefix(self.prefix)
        if self.default is not None:
            return self.default
        enumerate_devices: Any = getattr(av, "enumerate_input_devices", None)  # newer PyAV
        listed = enumerate_devices(self.format) if enumerate_devices else []
        names = [one.description for one in listed if "video" in one.media_types]
        if not names:
            raise OmniError("no camera is listed", fix="--camera NAME names one")
        return self.prefix + names[0]


DRIVERS = {
    "linux": Driver("v4l2", "/dev/video0"),
    # Built-in cameras refuse the NTSC rate that FFmpeg asks for otherwise.
    "darwin": Driver("avfoundation", "0", options={"framerate": "30"}),
    "win32": Driver("dshow", None, prefix="video="),
}


class Camera:
    """Keeps the newest frame of a camera. A context manager."""

    def __init__(self, name: str, note: Callable[[str], object]) -> None:
        """`name` is a device, or "default". `note` is told when the camera stops.

        Raises OmniError when it cannot be opened.
        """
        driver = DRIVERS.get(sys.platform, DRIVERS["linux"])
        device = driver.device(name)
        self._note = note
        try:
            self._container: Any = av.open(device, format=driver.format, options=driver.options)
        except (OSError, ValueError) as error:
            raise OmniError(
                f"the camera {device} cannot be opened: {error}",
                fix="--camera DEVICE names another one",
            ) from None
        self._newest: Image | None = None
        self._over = Event()
        self._thread = Thread(target=self._run, name="omni-camera", daemon=True)

    def newest(self) -> Image | None:
        """The newest picture, if there was one."""
        return self._newest

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(2.0)
        self._container.close()

    def _run(self) -> None:
        frames, due = self._container.decode(video=0), 0.0
        while not self._over.is_set():
            try:
                frame = next(frames)
            except BlockingIOError:  # avfoundation has no new frame yet
                self._over.wait(RETRY)
                frames = self._container.decode(video=0)
                continue
            except (OSError, StopIteration) as error:
                self._note(f"the camera stopped: {str(error) or 'no more frames'}")
                return
            if monotonic() >= due:
                due = monotonic() + INTERVAL
                file = io.BytesIO()
                frame.to_image().save(file, "JPEG")
                self._newest = Image(file.getvalue())
