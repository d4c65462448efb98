"""How much may wait for the next turn: what nobody asks to be answered must not fill the memory."""

from collections.abc import Sequence

import numpy as np

from omni_runtime.errors import UsageError
from omni_runtime.inputs.audio_stream import AudioStream
from omni_runtime.inputs.messages import ContentPart, Text
from omni_runtime.voice.vad import SAMPLE_RATE

MAX_PARTS = 512
MAX_BYTES = 64 * 2**20
"""Of text, encoded media and samples: 17 minutes of sound."""


def require_room(parts: Sequence[ContentPart]) -> None:
    """Raise UsageError if this is more than may wait."""
    if len(parts) > MAX_PARTS or sum(map(_bytes, parts)) > MAX_BYTES:
        raise UsageError(
            f"more than {MAX_PARTS} parts or {MAX_BYTES >> 20} MiB wait for a reply",
            fix="ask for one",
        )


def _bytes(part: ContentPart) -> int:
    match part.text if isinstance(part, Text) else part.source:
        case str() | bytes() as data:
            return len(data)
        case AudioStream() as stream:
            return round(stream.seconds * SAMPLE_RATE) * np.dtype(np.float32).itemsize
        case (np.ndarray() as samples, _):
            return samples.nbytes
        case _:  # a file that is read later
            return 0
