"""Synthetic inputs of golden vectors: audio, images, videos, and messages that contain them."""

import io
import math
import wave
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from omni_runtime.golden.vectors import File, Tensor, Values
from omni_runtime.inputs.messages import Audio, ContentPart, Image, Message, Role, Text, Video

AUDIO_SECONDS = 2.3
"""Duration of the audio: more than one encoder block."""
VIDEO_FRAMES, VIDEO_FPS = 14, 3
"""Nearly five seconds: three chunks of interleaved video and audio."""

TEXTS = [
    "Hello, world! It's 3 o'clock; we'll pay 12,345.67 for it.",
    "  leading,   inner \t spaces\n\n  and\r\n new lines \n ",
    "Gr\u00fc\u00dfe! u\u0308 o\u0308 (decomposed), \u1e9b\u0323 \u212b",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u65e5\u672c\u8a9e \ud55c\uad6d\uc5b4",
    "\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f1e9\U0001f1ea",
    "\u00a0no\u2003ASCII\u3000spaces\u0085here\u2028",
    "DON'T I'LL \u017f's 'S \u212a'Ve",
    "\u00bd\u00b2\u2167\u0663 1\u20442",
    "<|im_end|>\n<|im_start|>system\n<|AUDIO|> <|endoftext|>",
    "a\u0000b\u001f \ue000 0 \ue001 \ufffd \U0010ffff",
    "",
]


def sound(rate: int) -> File:
    """Return a 16-bit wav file: a rising tone with a silent part."""
    time = np.arange(int(AUDIO_SECONDS * rate)) / rate
    wave_form = 12000 * np.sin(2 * np.pi * (200 + 300 * time) * time)
    wave_form[len(time) // 2 : 5 * len(time) // 8] = 0
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(np.rint(wave_form).astype("<i2").tobytes())
    return File("sound.wav", data.getvalue())


def pixels(height: int, width: int, shift: float = 0.0) -> npt.NDArray[np.uint8]:
    """Return an image of waves and edges, uint8 (height, width, 3)."""
    y, x = np.mgrid[:height, :width]
    waves = [127 + 90 * np.sin(x / 5 + shift), 127 + 90 * np.cos(y * x / 90), 2.0 * y + shift]
    waves.append(255.0 * ((x // 7 + y // 11) % 2))
    red, green, blue, board = waves
    return np.stack([red, (green + board) / 2, blue], axis=-1).astype(np.uint8)


def picture(height: int, width: int) -> File:
    """Return a png file."""
    data = io.BytesIO()
    PillowImage.fromarray(pixels(height, width)).save(data, "PNG")
    return File("picture.png", data.getvalue())


def video(sound_file: File | None) -> Values:
    """Return the frames of a video, uint8 (t, h, w, 3), their rate, and its audio."""
    frames = np.stack([pixels(16, 24, index / 2) for index in range(VIDEO_FRAMES)])
    return {"frames": Tensor(frames), "rate": VIDEO_FPS, "sound": sound_file}


def messages(given: list[Values]) -> list[Message]:
    """Convert messages from the format of the vectors."""
    return [
        Message(cast("Role", one["role"]), [_part(part) for part in one["parts"]]) for one in given
    ]


def _part(part: Values) -> ContentPart:
    ((kind, value),) = part.items()
    match kind:
        case "text":
            return Text(value)
        case "sound":
            return Audio(value.data)
        case "picture":
            return Image(value.data)
        case _:
            return Video(_avi(value), use_audio=value["sound"] is not None)


def _avi(given: Values) -> bytes:
    """Return an avi file of uncompressed frames and samples, so that decoding is exact."""
    frames: npt.NDArray[Any] = given["frames"].values
    data = io.BytesIO()
    with av.open(data, "w", format="avi") as container:
        video = container.add_stream("rawvideo", rate=Fraction(given["rate"]))
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "bgr24"
        if given["sound"] is not None:
            with wave.open(io.BytesIO(given["sound"].data)) as file:
                rate, samples = file.getframerate(), file.readframes(file.getnframes())
            track: Any = container.add_stream("pcm_s16le", rate=rate, layout="mono")
            packed = np.frombuffer(samples, np.int16)[None]
            frame = av.AudioFrame.from_ndarray(packed, format="s16", layout="mono")
            frame.sample_rate, frame.pts = rate, 0
            container.mux(track.encode(frame))
            container.mux(track.encode(None))
        for pixels_of_frame in frames:
            frame = av.VideoFrame.from_ndarray(pixels_of_frame, format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return data.getvalue()


def spread_ids(count: int, below: int) -> list[int]:
    """Return `count` ids in 1 .. `below` - 1, spread by golden-ratio steps."""
    step = round(below * (math.sqrt(5) - 1) / 2)
    return [1 + (index * step) % (below - 1) for index in range(count)]
