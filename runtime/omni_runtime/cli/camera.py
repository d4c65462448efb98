"""A camera as a source of pictures, one a second, through FFmpeg's devices (PyAV)."""

import io
import sys
from threading import Event, Thread
from time import monotonic
from typing import Any, Self

import av

from omni_runtime.errors import OmniError
from omni_runtime.inputs.messages import Image

INTERVAL = 1.0
"""Seconds between two frames that are kept."""
DRIVERS = {
    "linux": ("v4l2", "/dev/video0"),
    "darwin": ("avfoundation", "0"),
    "win32": ("dshow", ""),
}


class Camera:
    """Keeps the newest frame of a camera. A context manager."""

    def __init__(self, name: str) -> None:
        """`name` is a device, or "default". Raises OmniError when it cannot be opened."""
        driver, default = DRIVERS.get(sys.platform, DRIVERS["linux"])
        device = default if name == "default" else name
        try:
            self._container: Any = av.open(device, format=driver)
        except (OSError, ValueError) as error:
            raise OmniError(
                f"the camera {device or name} cannot be opened: {error}",
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
        due = 0.0
        for frame in self._container.decode(video=0):
            if self._over.is_set():
                return
            if monotonic() >= due:
                due = monotonic() + INTERVAL
                file = io.BytesIO()
                frame.to_image().save(file, "JPEG")
                self._newest = Image(file.getvalue())
