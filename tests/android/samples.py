"""What the tests of the app hear."""

import wave
from pathlib import Path

import numpy as np

from omni_runtime.inputs.media import load_audio

TESTS = Path(__file__).parent.parent
RATE = 16_000


def write_question(folder: Path) -> Path:
    """Write the spoken question "What is seven plus five?" as a WAV file of 16 bits."""
    samples = load_audio(TESTS / "data" / "seven_plus_five.flac", RATE)
    path = folder / "question.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(np.rint(samples * 32767).astype("<i2").tobytes())
    return path
