"""Reply speech in the formats of OpenAI's API, encoded while it is made."""

import io
from typing import Any

import av
import numpy as np
from msgspec import Meta

from omni_runtime.arrays import FloatArray
from omni_runtime.server.errors import ApiError
from omni_runtime.wav import UNKNOWN_LENGTH, pcm16, wav_header

MEDIA_TYPES = {
    "pcm16": "audio/pcm",
    "pcm": "audio/pcm",
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "flac": "audio/flac",
    "opus": "audio/ogg",
    "aac": "audio/aac",
}
FORMAT = Meta(extra_json_schema={"enum": [*MEDIA_TYPES]})
_CODECS = {  # container, codec, sample format, rate (None: as given)
    "mp3": ("mp3", "libmp3lame", "fltp", None),
    "flac": ("flac", "flac", "s16", None),
    "opus": ("ogg", "libopus", "flt", 48_000),
    "aac": ("adts", "aac", "fltp", None),
}


def check_format(name: str) -> None:
    """Raise ApiError if there is no such format."""
    if name not in MEDIA_TYPES:
        known = ", ".join(MEDIA_TYPES)
        raise ApiError(f"unknown audio format {name!r}; choose one of {known}", param="format")


class AudioEncoder:
    """Samples in, bytes of a format out, piece by piece."""

    def __init__(self, name: str, rate: int, *, length: int | None = None) -> None:
        """`rate` in hertz; `length` in samples where it is known, for wav. Raises ApiError."""
        check_format(name)
        self.media_type = MEDIA_TYPES[name]
        self._rate = rate
        self._out = io.BytesIO()
        self._container: Any = None
        if name == "wav":
            self._out.write(wav_header(rate, UNKNOWN_LENGTH if length is None else 2 * length))
        if name in _CODECS:
            self._open(*_CODECS[name])

    def push(self, samples: FloatArray) -> bytes:
        """Encode float32 mono (n,); returns the bytes that are ready."""
        if self._container is None:
            self._out.write(pcm16(samples))
        elif len(samples):
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples[None], np.float32), format="fltp", layout="mono"
            )
            frame.sample_rate = self._rate
            self._encode(frame)
        return self._take()

    def finish(self) -> bytes:
        """Return the last bytes."""
        if self._container is not None:
            self._encode(None)
            for packet in self._stream.encode(None):
                self._container.mux(packet)
            self._container.close()
        return self._take()

    def _open(self, container: str, codec: str, sample_format: str, rate: int | None) -> None:
        self._sink = _Sink(self._out)
        self._container = av.open(self._sink, "w", format=container)
        self._stream: Any = self._container.add_stream(codec, rate=rate or self._rate)
        self._stream.layout = "mono"
        size = self._stream.codec_context.frame_size or None
        self._resampler = av.AudioResampler(sample_format, "mono", rate or self._rate, size)

    def _encode(self, frame: av.AudioFrame | None) -> None:
        for part in self._resampler.resample(frame):
            for packet in self._stream.encode(part):
                self._container.mux(packet)

    def _take(self) -> bytes:
        data = self._out.getvalue()
        self._out.seek(0)
        self._out.truncate()
        return data


class _Sink:
    """A file that cannot seek, as a network stream."""

    def __init__(self, out: io.BytesIO) -> None:
        self._out = out

    def write(self, data: bytes) -> int:
        return self._out.write(data)


def encoded(samples: FloatArray, name: str, rate: int) -> bytes:
    """Encode whole speech, float32 mono (n,)."""
    encoder = AudioEncoder(name, rate, length=len(samples))
    return encoder.push(samples) + encoder.finish()
