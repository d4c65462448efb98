"""What the tests of the app need and hear."""

import os
import platform
import shutil
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from omni_runtime.inputs.media import load_audio

TESTS = Path(__file__).parent.parent
RATE = 16_000


def needs(*programs: str, jvm_engine: bool = False) -> pytest.MarkDecorator:
    """Skip a test where programs are not installed, but never in CI.

    `jvm_engine`: the engine runs on a desktop JVM, which needs Linux on x86-64.
    """
    missing = [name for name in programs if shutil.which(name) is None]
    if jvm_engine and (sys.platform, platform.machine()) != ("linux", "x86_64"):
        missing.append("Linux on x86-64")
    return pytest.mark.skipif(
        bool(missing) and "CI" not in os.environ, reason=f"needs {', '.join(missing)}"
    )


def write_question(folder: Path) -> Path:
    """Write the spoken question "What is seven plus five?" as a WAV file of 16 bits."""
    samples = load_audio(TESTS / "data" / "seven_plus_five.flac", RATE)
    path = folder / "question.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(np.rint(samples * 32767).astype("<i2").tobytes())
    return path
