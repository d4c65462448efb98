"""Messages of a conversation: text, images, audio and video.

Plain records that name their sources. Nothing is decoded or rendered here.
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
    """Text. Special tokens in it are encoded as ordinary text."""

    text: str


@dataclass(frozen=True)
class Image:
    """An image: a path, bytes or a binary file."""

    source: Source


@dataclass(frozen=True)
class Audio:
    """Audio: a path, bytes, a binary file, samples with their rate, or a live stream."""

    source: Source | Samples | AudioStream


@dataclass(frozen=True)
class Video:
    """A video. `use_audio` adds its audio track, if it has one and the model takes audio."""

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
    """Return a copy of the message without its audio streams, to free their memory."""
    parts = [
        Audio(b"") if isinstance(part, Audio) and isinstance(part.source, AudioStream) else part
        for part in message.parts
    ]
    return Message(message.role, parts)


def kind_of(part: MediaPart) -> Kind:
    """Return the kind of a media part."""
    match part:
        case Image():
            return "image"
        case Audio():
            return "audio"
        case Video():
            return "video"
