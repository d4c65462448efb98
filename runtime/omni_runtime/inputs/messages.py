"""What a person says to the model: turns made of text, pictures, sound and video.

Not decoded and not rendered here: plain records that name their sources.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from omni_runtime.inputs.audio_stream import AudioStream
from omni_runtime.inputs.media import Samples
from omni_runtime.inputs.source import Source

Role = Literal["system", "user", "assistant"]
Kind = Literal["audio", "image", "video"]


@dataclass(frozen=True)
class Text:
    """Something written. Special tokens in it are ordinary text."""

    text: str


@dataclass(frozen=True)
class Image:
    """A picture: a path, bytes or file."""

    source: Source


@dataclass(frozen=True)
class Audio:
    """Sound: a path, bytes, file, samples with their rate, or a live stream."""

    source: Source | Samples | AudioStream


@dataclass(frozen=True)
class Video:
    """A video; with `use_audio` its sound track, if it has one and the model hears, is used too."""

    source: Source
    use_audio: bool = True


MediaPart = Image | Audio | Video
ContentPart = Text | MediaPart


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    parts: Sequence[ContentPart]


def without_streams(message: Message) -> Message:
    """Return the message with empty sources in place of audio streams, which hold memory."""
    parts = [
        Audio(b"") if isinstance(part, Audio) and isinstance(part.source, AudioStream) else part
        for part in message.parts
    ]
    return Message(message.role, parts)


def kind_of(part: MediaPart) -> Kind:
    """Which of the three kinds of media a part is."""
    match part:
        case Image():
            return "image"
        case Audio():
            return "audio"
        case Video():
            return "video"
