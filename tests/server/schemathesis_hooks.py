"""What schemathesis sends as a recording: real speech, besides whatever it makes up."""

import io
import wave
from pathlib import Path

import schemathesis
from hypothesis import strategies

from omni_runtime.inputs.media import load_audio
from omni_runtime.wav import pcm16

SPEECH = Path(__file__).parent.parent / "data" / "seven_plus_five.flac"


def _wav() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, 16_000, 0, "NONE", ""))
        writer.writeframes(pcm16(load_audio(SPEECH, 16_000)))
    return file.getvalue()


schemathesis.openapi.media_type("audio/wav", strategies.just(_wav()))
