"""Bodies of requests and their content as message parts. Data URIs only: nothing is fetched."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
import numpy as np
from msgspec import Struct

from omni_runtime.arrays import FloatArray
from omni_runtime.inputs.messages import Audio, ContentPart, Image, Text, Video
from omni_runtime.server.errors import ApiError
from omni_runtime.server.settings import Settings

PCM_RATE = 24_000
"""The only rate of raw PCM in OpenAI's API."""
RAW = ("pcm16", "pcm")

Content = str | Sequence[Mapping[str, Any]]


def decode(body: bytes, kind: type[Struct]) -> Any:
    """Decode and check a JSON body. Raises ApiError, also for one that is nested too deeply."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ApiError(f"the body is not a valid request: {str(error)[:200]}") from None


def pcm16_samples(data: bytes) -> FloatArray:
    """Decode little-endian 16-bit PCM to float32 (n,). Raises ApiError for half a sample."""
    if len(data) % 2:
        raise ApiError("the PCM data ends within a sample", code="invalid_audio")
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)


def decode_base64(data: object, name: str) -> bytes:
    """Decode strict base64. Raises ApiError."""
    if not isinstance(data, str) or not data:
        raise ApiError(f"{name} must be base64 data", param=name)
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(f"{name} is not valid base64", param=name) from None


def parts_of(content: Content | None, settings: Settings) -> list[ContentPart]:
    """Convert a message's content. Raises ApiError for what is not known."""
    if content is None:
        return []
    if isinstance(content, str):
        return [Text(content)] if content else []
    return [_part(part, settings) for part in content]


def _part(part: Mapping[str, Any], settings: Settings) -> ContentPart:
    if not hasattr(part, "get"):
        raise ApiError("a content part must be an object", param="content")
    kind = part.get("type")
    match kind:
        case "text" | "input_text" | "output_text":
            text = part.get("text")
            if not isinstance(text, str):
                raise ApiError("a text part needs a text", param="text")
            return Text(text)
        case "image_url" | "input_image":
            return Image(_source(_url(part, "image_url"), settings, "image_url"))
        case "audio_url":
            return Audio(_source(_url(part, "audio_url"), settings, "audio_url"))
        case "video_url":
            return Video(_source(_url(part, "video_url"), settings, "video_url"))
        case "input_audio":
            return _audio(part.get("input_audio"))
        case _:
            raise ApiError(f"unknown content type {kind!r}", param="type")


def _audio(given: object) -> Audio:
    if not isinstance(given, Mapping):
        raise ApiError("input_audio needs data and format", param="input_audio")
    data = decode_base64(given.get("data"), "input_audio.data")
    if given.get("format") in RAW:
        return Audio((pcm16_samples(data), PCM_RATE))
    return Audio(data)  # the container says what it is


def _url(part: Mapping[str, Any], name: str) -> str:
    given = part.get(name)
    url = given.get("url") if isinstance(given, Mapping) else given
    if not isinstance(url, str):
        raise ApiError(f"{name} needs a url", param=name)
    return url


def _source(url: str, settings: Settings, name: str) -> bytes | Path:
    scheme = url[:10].partition(":")[0].lower()
    if scheme == "data":
        header, comma, data = url.partition(",")
        if not comma or not header.endswith(";base64"):
            raise ApiError("a data URI must be base64", param=name)
        return decode_base64(data, name)
    if scheme == "file":
        return _file(url, settings, name)
    raise ApiError(
        "this server fetches nothing: send the file as data:...;base64,...",
        code="url_refused",
        param=name,
    )


def _file(url: str, settings: Settings, name: str) -> Path:
    if settings.media_folder is None:
        raise ApiError(
            "files are not served here; send the file as data:...;base64,...",
            code="url_refused",
            param=name,
        )
    path = _below(settings.media_folder.resolve(), url)
    if path is None:
        raise ApiError("there is no such file in the media folder", code="no_file", param=name)
    return path


def _below(folder: Path, url: str) -> Path | None:
    """The file of a file URL if there is one below the folder, which is resolved."""
    try:
        given = urlsplit(url)
        relative = unquote(given.path).removeprefix("/")
        # Only to look up the name of a share, Windows would connect to another machine.
        if given.netloc or "\\" in relative or PureWindowsPath(relative).anchor:
            return None
        path = (folder / relative).resolve()
        return path if path.is_relative_to(folder) and path.is_file() else None
    except (ValueError, OSError):  # malformed, with a NUL, too long
        return None
