"""What the tests of the app load and hear."""

import wave
from pathlib import Path

import numpy as np

from conftest import export_to
from omni_runtime.inputs.media import load_audio

TESTS = Path(__file__).parent.parent
CHECKPOINT = TESTS.parent / "tiny" / "checkpoint"
RATE = 16_000


def export_default(folder: Path) -> Path:
    """Export the trained checkpoint in int4."""
    return export_to(CHECKPOINT, folder / "tiny-int4", "int4")


def write_question(folder: Path) -> Path:
    """Write the spoken question "What is seven plus five?" as a WAV file of 16 bits."""
    samples = load_audio(TESTS / "data" / "seven_plus_five.flac", RATE)
    path = folder / "question.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(np.rint(samples * 32767).astype("<i2").tobytes())
    return path
