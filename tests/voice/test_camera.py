"""The camera thread, with FFmpeg's test picture as its device."""

import io
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image as Picture

from omni_runtime.cli import camera
from omni_runtime.errors import OmniError


def test_one_frame_a_second_the_newest(monkeypatch) -> None:
    picture = camera.Driver("lavfi", "testsrc=rate=10:size=320x240")
    monkeypatch.setattr(camera, "DRIVERS", {"linux": picture})
    monkeypatch.setattr(camera, "INTERVAL", 0.1)
    with camera.Camera("default", print) as device:
        seen = []
        end = time.monotonic() + 20
        while len(seen) < 3:
            assert time.monotonic() < end
            newest = device.newest()
            if newest is not None and newest not in seen:
                seen.append(newest)
            time.sleep(0.01)
    assert Picture.open(io.BytesIO(seen[0].source)).size == (320, 240)
    assert len({image.source for image in seen}) == 3, "a clock runs in the picture"


class Frames:
    """A camera that has no new frame at first, and is then pulled out."""

    def __init__(self) -> None:
        self._frame = av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8), "rgb24")
        self._asked = 0

    def decode(self, video: int) -> Iterator[av.VideoFrame]:
        self._asked += 1
        if self._asked == 1:
            raise BlockingIOError
        yield self._frame
        raise OSError("device gone")

    def close(self) -> None:
        pass


def test_a_camera_that_is_late_and_then_gone(monkeypatch) -> None:
    monkeypatch.setattr(camera.av, "open", lambda *_, **__: Frames())
    gone, notes = threading.Event(), []
    with camera.Camera("default", lambda text: (notes.append(text), gone.set())) as device:
        assert gone.wait(20)
        assert device.newest() is not None
    assert notes == ["the camera stopped: device gone"]


def test_no_such_camera() -> None:
    with pytest.raises(OmniError, match="cannot be opened"):
        camera.Camera("/dev/no-such-camera", print)


def test_names_of_devices(monkeypatch) -> None:
    windows = camera.DRIVERS["win32"]
    assert windows.device("Integrated Camera") == "video=Integrated Camera"
    assert windows.device("video=Integrated Camera") == "video=Integrated Camera"
    listed = [
        SimpleNamespace(description="Microphone", media_types=["audio"]),
        SimpleNamespace(description="Integrated Camera", media_types=["video"]),
    ]
    monkeypatch.setattr(camera.av, "enumerate_input_devices", lambda _: listed, raising=False)
    assert windows.device("default") == "video=Integrated Camera"
    listed.clear()
    with pytest.raises(OmniError, match="no camera"):
        windows.device("default")
