"""The Python runtime as the counterpart of the Kotlin engine: the same requests, the same answers.

Graphs run with ONNX Runtime's own operators on one thread, as in the engine. A system prompt that
was read once is not shared between conversations, which the engine does not do: its graphs would
run over other numbers of rows.
"""

from pathlib import Path
from typing import Any
from unittest.mock import patch

from omni_runtime import system_prefix
from omni_runtime.conversation import Conversation
from omni_runtime.engine.sampling import Sampling
from omni_runtime.engine.session import SessionOptions
from omni_runtime.errors import OmniError
from omni_runtime.events import AudioDelta, TextDelta, TurnDone
from omni_runtime.golden import samples
from omni_runtime.golden.vectors import Values
from omni_runtime.inputs.audio_stream import AudioStream
from omni_runtime.inputs.messages import Audio, Text
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, SpeechOptions
from omni_runtime.response import Response


def open_model(bundle: Path, **options: Any) -> Model:
    """Open a bundle as the tests do."""
    return Model(
        bundle, SessionOptions(**{"threads": 1, "native": False, "prepack_cache": False, **options})
    )


class Talk:
    """A conversation of the Python runtime, with the operations of Talks.kt."""

    def __init__(
        self, model: Model, conversation: Conversation | None = None, **given: Any
    ) -> None:
        self._conversation = conversation or Conversation(model, **given)
        self._model = model
        self._stream: AudioStream | None = None
        self._turns_before = 0

    def fork(self) -> "Talk":
        """Return a copy."""
        return Talk(self._model, self._conversation.fork())

    def ask(self, name: str, **given: Any) -> Any:
        """Carry out an operation."""
        with patch.object(system_prefix, "fork", return_value=None):
            return self._ask(name, **given)

    def _ask(self, name: str, **given: Any) -> Any:
        talk = self._conversation
        match name:
            case "send":
                self._turns_before = talk.turn_count
                return self._reply(lambda o: talk.send(self._parts(given), o), given)
            case "regenerate":
                return self._reply(talk.regenerate, given)
            case "read_ahead":
                parts = self._parts(given)
                talk.read_ahead(parts, more=given["more"], speech=given["speech"])
            case "interrupt":
                return talk.truncate(given["heard"])
            case "make_room":
                return talk.make_room(given["tokens"])
            case "retract":
                if talk.turn_count > self._turns_before:
                    talk.undo()
            case "stream":
                self._stream = self._model.audio_stream(given["rate"])
            case "push":
                assert self._stream is not None
                self._stream.push(given["samples"])
            case "finish":
                assert self._stream is not None
                self._stream.finish()
            case "undo" | "close":
                getattr(talk, name)()
            case _:
                raise ValueError(name)
        return None

    def _parts(self, given: Values) -> list[Any]:
        message = samples.messages([{"role": "user", "parts": given["parts"]}])[0]
        live = [Audio(self._stream)] if given.get("live") and self._stream else []
        return [*message.parts, *live]

    def _reply(self, start: Any, given: Values) -> Values:
        cancel = given.get("cancel_after") or {"event": None, "count": -1}
        left = cancel["count"]
        texts: list[str] = []
        audio: list[Values] = []
        response = None
        try:
            response = start(reply_options(given["options"]))
            for event in response:
                kind = {TextDelta: "text", AudioDelta: "audio"}.get(type(event), "")
                if isinstance(event, TextDelta):
                    texts.append(event.text)
                if isinstance(event, AudioDelta):
                    audio.append(_sound(event, "".join(texts)))
                if isinstance(event, TurnDone):
                    return {**self._done(response, event), "texts": texts, "audio": audio}
                left -= kind == cancel["event"]
                if kind == cancel["event"] and left == 0:
                    response.cancel()
        except OmniError as error:
            return {"error": error.code}
        raise AssertionError("a reply without an end")

    def _done(self, response: Response, event: TurnDone) -> Values:
        reply = response._progress.reply
        speech = reply._speech if reply else None
        return {
            "text": event.text,
            "finish_reason": event.finish_reason,
            "speech_complete": event.speech_complete,
            "used": event.context_used,
            "limit": event.context_limit,
            "cache_bytes": event.cache_bytes,
            "tokens": self._conversation.last_tokens,
            "codes": speech.codes if speech else [],
            "prompt_tokens": event.timings.prompt_tokens,
            "cached_tokens": event.timings.cached_tokens,
            "messages": [
                [one.role, "".join(part.text for part in one.parts if isinstance(part, Text))]
                for one in self._conversation.messages
            ],
        }


def _sound(event: AudioDelta, text: str) -> Values:
    """Text positions in units of UTF-16, which Kotlin counts."""
    position = len(text[: event.text_position].encode("utf-16-le")) // 2
    return {"samples": event.samples, "first": event.first_sample, "position": position}


def reply_options(given: Values) -> ReplyOptions:
    """Return options from the form of the requests."""
    speech = given["speech"]
    if speech is not None:
        sampling = speech["sampling"]
        speech = SpeechOptions(**{**speech, "sampling": sampling and Sampling(**sampling)})
    return ReplyOptions(speech, Sampling(**given["sampling"]), given["max_tokens"], given["seed"])
