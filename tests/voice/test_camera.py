"""The camera thread, with FFmpeg's test picture as its device."""

import io
import time

import pytest
from PIL import Image as Picture

from omni_runtime.cli import camera
from omni_runtime.errors import OmniError


def test_one_frame_a_second_the_newest(monkeypatch) -> None:
    monkeypatch.setattr(camera, "DRIVERS", {"linux": ("lavfi", "testsrc=rate=10:size=320x240")})
    monkeypatch.setattr(camera, "INTERVAL", 0.1)
    with camera.Camera("default") as device:
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


def test_no_such_camera() -> None:
    with pytest.raises(OmniError, match="cannot be opened"):
        camera.Camera("/dev/no-such-camera")
