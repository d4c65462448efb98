"""Records of the realtime protocol (GA names): items, responses and their events."""

import secrets
from dataclasses import dataclass, field
from typing import Any

from omni_runtime.events import TurnDone
from omni_runtime.server.usage import prompt_tokens

Record = dict[str, Any]

MAX_ITEMS = 512
MAX_TEXT = 2**24
"""Items that can be retrieved, and the characters in all of them; the oldest are forgotten."""


EMPTY: Record = {
    "output": [],
    "usage": {
        "total_tokens": 0,
        "input_tokens": 0,
        "output_tokens": 0,
        "input_token_details": {"cached_tokens": 0, "text_tokens": 0, "audio_tokens": 0},
        "output_token_details": {"text_tokens": 0, "audio_tokens": 0},
    },
}


def identifier(kind: str) -> str:
    """A fresh id, such as item_3f…"""
    return f"{kind}_{secrets.token_hex(10)}"


def error(message: str, code: str, event_id: str | None = None, kind: str | None = None) -> Record:
    """An error event. The connection goes on."""
    what = {"type": kind or "invalid_request_error", "code": code, "message": message}
    return {"type": "error", "error": what | {"param": None, "event_id": event_id}}


@dataclass
class Items:
    """The items of a conversation, in order."""

    records: dict[str, Record] = field(default_factory=dict[str, Record])

    def add(self, item: Record) -> str | None:
        """Append an item; returns the id of the one before it."""
        previous = next(reversed(self.records), None)
        self.records[item["id"]] = item
        while len(self.records) > MAX_ITEMS or sum(map(_length, self.records.values())) > MAX_TEXT:
            del self.records[next(iter(self.records))]
        return previous


def _length(item: Record) -> int:
    return sum(len(text or "") for part in item["content"] for text in part.values())


def message(role: str, content: list[Record], status: str = "completed") -> Record:
    """A message item."""
    return {
        "id": identifier("item"),
        "object": "realtime.item",
        "type": "message",
        "status": status,
        "role": role,
        "content": content,
    }


class ResponseRecord:
    """One response: its item, its content so far, and the events that announce both."""

    def __init__(self, session: Record, metadata: object, *, speaks: bool) -> None:
        self.id = identifier("resp")
        self.speaks = speaks
        self.text = ""
        self.samples = 0
        self.open = True
        self.item = message("assistant", [], "in_progress")
        self._session = session
        self._metadata = metadata
        self.audio_started = False

    def created(self) -> list[Record]:
        """Events before any work: clients wait for `response.created` only some seconds."""
        return [{"type": "response.created", "response": self._record("in_progress", None, None)}]

    def started(self, previous: str | None) -> list[Record]:
        """Events of the item and its one part."""
        item = {"response_id": self.id, "output_index": 0, "item": self.item}
        return [
            {"type": "response.output_item.added"} | item,
            {"type": "conversation.item.added", "previous_item_id": previous, "item": self.item},
            self._part("response.content_part.added", {"part": self._content(kind=True)}),
        ]

    def text_delta(self, delta: str) -> Record:
        """A piece of text, or of the transcript of speech."""
        self.text += delta
        name = "output_audio_transcript" if self.speaks else "output_text"
        return self._part(f"response.{name}.delta", {"delta": delta})

    def audio_delta(self, data: str, samples: int) -> Record:
        """A piece of speech, base64."""
        self.samples += samples
        return self._part("response.output_audio.delta", {"delta": data})

    def done(self, status: str, reason: str | None, turn: TurnDone | None) -> list[Record]:
        """The events that end a response, also one that was cancelled."""
        self.open = False
        self.item["status"] = "completed" if status == "completed" else "incomplete"
        self.item["content"] = [self._content()]
        final: list[Record] = []
        if self.speaks:
            final.append(self._part("response.output_audio.done", {}))
            transcript = {"transcript": self.text}
            final.append(self._part("response.output_audio_transcript.done", transcript))
        else:
            final.append(self._part("response.output_text.done", {"text": self.text}))
        final.append(self._part("response.content_part.done", {"part": self._content(kind=True)}))
        item = {"response_id": self.id, "output_index": 0, "item": self.item}
        final.append({"type": "response.output_item.done"} | item)
        final.append({"type": "conversation.item.done", "item": self.item})
        ended = self._record(status, reason, turn)
        return [*final, {"type": "response.done", "response": ended}]

    def empty(self) -> Record:
        """A response without output: there was nothing to respond to."""
        self.open = False
        return {"type": "response.done", "response": self._record("completed", None, None) | EMPTY}

    def failed(self, what: Record) -> Record:
        """A response that could not be made."""
        self.open = False
        record = self._record("failed", None, None)
        record["output"] = []
        record["status_details"] = {"type": "failed", "error": what}
        return {"type": "response.done", "response": record}

    def _content(self, *, kind: bool = False) -> Record:
        """The part; `kind` gives the type of streams, which differs from that of items."""
        if self.speaks:
            name = "audio" if kind else "output_audio"
            return {"type": name, "transcript": self.text}
        return {"type": "text" if kind else "output_text", "text": self.text}

    def _part(self, kind: str, fields: Record) -> Record:
        where = {"response_id": self.id, "item_id": self.item["id"]}
        return {"type": kind, **where, "output_index": 0, "content_index": 0, **fields}

    def _record(self, status: str, reason: str | None, turn: TurnDone | None) -> Record:
        details = None if status in ("in_progress", "completed") else {"type": status}
        if details is not None and reason is not None:
            details["reason"] = reason
        return {
            "object": "realtime.response",
            "id": self.id,
            "status": status,
            "status_details": details,
            "output": [self.item] if status != "in_progress" else [],
            "conversation_id": self._session["id"].replace("sess", "conv"),
            "output_modalities": self._session["output_modalities"],
            "max_output_tokens": self._session["max_output_tokens"],
            "audio": {"output": self._session["audio"]["output"]},
            "metadata": self._metadata,
            "usage": _usage(turn),
        }


def _usage(turn: TurnDone | None) -> Record | None:
    if turn is None:
        return None
    timings = turn.timings
    prompt, cached = prompt_tokens(turn)
    return {
        "total_tokens": turn.context_used,
        "input_tokens": prompt,
        "output_tokens": timings.reply_tokens,
        "input_token_details": {"cached_tokens": cached, "text_tokens": prompt, "audio_tokens": 0},
        "output_token_details": {
            "text_tokens": timings.reply_tokens,
            "audio_tokens": timings.codes,
        },
    }
