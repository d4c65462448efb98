"""What clients of the realtime protocol send: events and content parts, checked before use."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from omni_runtime.server.errors import ApiError
from omni_runtime.server.realtime_events import Record

SHOWN = ("type", "text", "transcript")
MAX_SECONDS = 86_400


def decoded(text: object) -> Mapping[str, Any]:
    """Decode a frame, which must be text. Raises ApiError."""
    try:
        given = msgspec.json.decode(text if isinstance(text, str) else "")
    except (msgspec.DecodeError, RecursionError, UnicodeError) as failed:
        raise ApiError(f"not JSON: {str(failed)[:200]}", code="invalid_json") from None
    if not isinstance(given, Mapping):
        raise ApiError("an event must be an object", code="invalid_event")
    return given


def items(given: object, name: str) -> Sequence[Any]:
    """A list that may be missing. Raises ApiError."""
    if given is not None and not isinstance(given, list):
        raise ApiError(f"{name} must be a list", param=name)
    return given or ()


def seconds(milliseconds: object, name: str) -> float:
    """Seconds from milliseconds, at least 0. Raises ApiError."""
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int | float):
        raise ApiError(f"{name} must be a number", param=name)
    return min(max(milliseconds, 0), MAX_SECONDS * 1000) / 1000  # an int may be too large


def chat_part(part: object) -> Mapping[str, Any]:
    """A content part of this protocol in the form of Chat Completions. Raises ApiError."""
    if not isinstance(part, Mapping):
        raise ApiError("a content part must be an object", param="item.content")
    if part.get("type") == "input_audio":
        return {
            "type": "input_audio",
            "input_audio": {"data": part.get("audio"), "format": "pcm16"},
        }
    return part


def shown(part: Mapping[str, Any]) -> Record:
    """What the server repeats of a part: not its media."""
    return {name: part[name] for name in SHOWN if isinstance(part.get(name), str)}
