"""Memory of media stays below half a gigabyte, whatever a header claims."""

import os
import subprocess
import sys
import wave
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inputs.reference import VISION
from inputs.samples import frame, write_media
from omni_runtime.errors import MediaError
from omni_runtime.inputs import source, video
from omni_runtime.inputs.video import load_video

LIMIT = 2**29
CHILD = """
import re, sys
from pathlib import Path
from omni_runtime.errors import MediaError
from omni_runtime.inputs.image import load_image
from omni_runtime.inputs.media import load_audio
def peak():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status).group(1))
before = peak()
for name in sys.argv[1:]:
    try:
        (load_audio if Path(name).suffix in (".wav", ".flac") else load_image)(name)
    except MediaError:
        pass
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_headers_that_claim_much(tmp_path: Path) -> None:
    side = 9400
    Image.new("P", (side, side)).save(tmp_path / "palette.png", compress_level=1)
    Image.new("1", (1, 89_000_000)).save(tmp_path / "line.png")
    Image.new("L", (side, side)).save(tmp_path / "a.webp", lossless=True, method=0)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 2**30, 0, "NONE", ""))
        file.writeframes(bytes(10**6))
    write_media(tmp_path / "a.flac", sound=np.zeros(655_350 * 4), rate=655_350, audio_codec="flac")
    names = sorted(str(path) for path in tmp_path.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *names],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) < LIMIT


def test_frames_that_grow_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = write_media(tmp_path / "a.ts", frames=[frame(i) for i in range(50)])
    large = write_media(tmp_path / "b.ts", frames=[frame(i, 256, 256) for i in range(2)])
    joined = small.read_bytes() + large.read_bytes()
    limit = 64 * 64
    monkeypatch.setattr(video, "MAX_FRAME_PIXELS", limit)
    monkeypatch.setattr(source, "_OPTIONS", {**source._OPTIONS, "max_pixels": str(limit)})
    sizes: set[int] = set()
    real = video.upright
    monkeypatch.setattr(video, "upright", lambda f: sizes.add(f.width * f.height) or real(f))
    with suppress(MediaError):
        load_video(joined, VISION)
    assert sizes <= {48 * 64}
    with pytest.raises(MediaError):
        load_video(large, VISION)
