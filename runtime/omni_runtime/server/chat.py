"""POST /v1/chat/completions: text, images, audio and video in; text and speech out."""

import asyncio
import base64
import json
import secrets
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import Annotated, Any

import numpy as np
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from omni_runtime.arrays import FloatArray
from omni_runtime.events import AudioDelta, Event, FinishReason, TextDelta, TurnDone
from omni_runtime.inputs.messages import Message
from omni_runtime.options import ReplyOptions, SpeechOptions
from omni_runtime.server.audio_format import FORMAT, AudioEncoder, check_format, encoded
from omni_runtime.server.content import decode, parts_of
from omni_runtime.server.conversations import Kept, digest
from omni_runtime.server.errors import ApiError
from omni_runtime.server.replies import events, unless_disconnected
from omni_runtime.server.state import State, summary, usage
from omni_runtime.server.streams import EventStream

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
FINISH: dict[FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "context": "length",
    "interrupted": "stop",
}
AUDIO_LIFETIME = 3600
MESSAGES = Meta(extra_json_schema={"items": {"$ref": "#/components/schemas/Message"}})
MAX_SPOKEN = 256
"""Spoken replies whose text is remembered, for clients that name them by id in later turns."""


TokenLimit = Annotated[int, Meta(ge=1, le=2**31)]


class AudioRequest(Struct):
    """How a reply is spoken."""

    format: Annotated[str, FORMAT] = "wav"
    voice: str | dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Refuse unknown formats before a reply starts."""
        check_format(self.format)


class StreamOptions(Struct):
    """Options of a stream."""

    include_usage: bool = False


class ChatRequest(Struct):
    """A request. Unknown fields are ignored, as clients send many."""

    messages: Annotated[list[dict[str, Any]], MESSAGES]
    model: str = ""
    modalities: list[str] | None = None
    audio: AudioRequest | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: TokenLimit | None = None
    max_completion_tokens: TokenLimit | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=1e-6, le=1)] | None = None
    seed: int | None = None
    n: Annotated[int, Meta(ge=1, le=1)] | None = None
    tools: list[Any] | None = None
    stop: str | list[str] | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None

    @property
    def speaks(self) -> bool:
        """Whether speech is asked for."""
        return "audio" in (self.modalities or ())


def _require_supported(asked: ChatRequest) -> None:
    """Raise ApiError for what would change the reply and is not done here."""
    form = (asked.response_format or {}).get("type", "text")
    wanted = {
        "tools": asked.tools,
        "stop": asked.stop,
        "logprobs": asked.logprobs,
        "response_format": form != "text",
    }
    for name, given in wanted.items():
        if given:
            raise ApiError(f"{name} is not supported", param=name, code="unsupported")


class Chat:
    """The route, and the texts of the latest spoken replies."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._spoken: dict[str, str] = {}

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._state.settings.model

    async def __call__(self, request: Request) -> Response:
        """Answer a request."""
        asked = decode(await request.body(), ChatRequest)
        _require_supported(asked)
        messages = [self._message(message) for message in asked.messages]
        options = self._options(asked)
        if asked.stream:
            return EventStream(self._stream(request, asked, messages, options))
        return await unless_disconnected(request, self._whole(request, asked, messages, options))

    def _message(self, given: Mapping[str, Any]) -> Message:
        role = ROLES.get(str(given.get("role")))
        if role is None:
            raise ApiError(f"unknown role {given.get('role')!r}", param="messages")
        audio = given.get("audio")
        if role == "assistant" and given.get("content") is None and isinstance(audio, Mapping):
            text = self._spoken.get(str(audio.get("id")))
            if text is None:
                raise ApiError("the audio of this id has expired", code="audio_expired")
            return Message("assistant", parts_of(text, self._state.settings))
        content = given.get("content")
        if content is not None and not isinstance(content, str | list):
            raise ApiError("content must be a string or a list of parts", param="messages")
        return Message(role, parts_of(content, self._state.settings))  # type: ignore[arg-type]

    def _options(self, asked: ChatRequest) -> ReplyOptions:
        speech = None
        if asked.speaks:
            given = asked.audio or AudioRequest()
            voice = given.voice if isinstance(given.voice, str) else None
            speech = SpeechOptions(
                voice=self._state.voice(voice),
                preset=self._state.speech.preset,
                chunks="adaptive" if asked.stream else "fixed",
                max_codes=self._state.codes(self._state.settings.max_speech_seconds),
            )
            speech.resolved(self._state.engine.model.speech)
        return self._state.reply_options(
            speech=speech,
            max_tokens=asked.max_completion_tokens or asked.max_tokens,
            temperature=asked.temperature,
            top_p=asked.top_p,
            seed=asked.seed,
        )

    async def _reply(
        self, request: Request, messages: list[Message], options: ReplyOptions
    ) -> AsyncGenerator[Event]:
        state = self._state
        async with (
            state.admission.slot(),
            state.conversations.lend(messages) as (conversation, kept, parts),
            aclosing(events(conversation, parts, options)) as reply,
        ):
            async for event in reply:
                if isinstance(event, TurnDone):
                    _keep(kept, parts, event)
                    state.metrics.reply(event)
                    request.state.summary = summary(event)
                yield event

    async def _whole(
        self, request: Request, asked: ChatRequest, messages: list[Message], options: ReplyOptions
    ) -> Response:
        samples: list[FloatArray] = []
        rate, done = 0, None
        async with aclosing(self._reply(request, messages, options)) as reply:
            async for event in reply:
                match event:
                    case AudioDelta():
                        samples.append(event.samples)
                        rate = event.rate
                    case TurnDone():
                        done = event
                    case _:
                        pass
        assert done is not None
        message: dict[str, Any] = {"role": "assistant", "content": done.text, "refusal": None}
        if asked.speaks:
            name = (asked.audio or AudioRequest()).format
            whole = np.concatenate([np.zeros(0, np.float32), *samples])
            data = await asyncio.to_thread(encoded, whole, name, rate or 24_000)
            message["content"] = None
            message["audio"] = self.audio(done.text) | {"data": _base64(data)}
        return JSONResponse(
            _head("chat.completion", self.model)
            | {"choices": [_choice({"message": message}, FINISH[done.finish_reason])]}
            | {"usage": usage(done)}
        )

    async def _stream(
        self, request: Request, asked: ChatRequest, messages: list[Message], options: ReplyOptions
    ) -> AsyncGenerator[str]:
        chunks = _Chunks(self, asked)
        async with aclosing(self._reply(request, messages, options)) as reply:
            async for event in reply:
                for chunk in chunks.of(event):
                    yield chunk
        yield "[DONE]"

    def audio(self, text: str, name: str | None = None) -> dict[str, Any]:
        """Remember a spoken reply."""
        name = name or f"audio_{secrets.token_hex(8)}"
        self._spoken[name] = text
        while len(self._spoken) > MAX_SPOKEN:
            del self._spoken[next(iter(self._spoken))]
        return {"id": name, "transcript": text, "expires_at": int(time.time()) + AUDIO_LIFETIME}


class _Chunks:
    """The records of a stream.

    The role comes with the first event, not earlier: a request that is refused gets a status.
    """

    def __init__(self, chat: Chat, asked: ChatRequest) -> None:
        self._chat = chat
        self._asked = asked
        self._head = _head("chat.completion.chunk", chat.model)
        self._audio = f"audio_{secrets.token_hex(8)}"
        self._encoder: AudioEncoder | None = None
        self._started = False

    def of(self, event: Event) -> Iterator[str]:
        """Translate an event of the reply."""
        speaks = self._asked.speaks
        if not self._started:
            self._started = True
            yield self._chunk({"role": "assistant", "content": None if speaks else ""})
        match event:
            case TextDelta(text) if speaks:
                yield self._chunk({"audio": {"id": self._audio, "transcript": text}})
            case TextDelta(text):
                yield self._chunk({"content": text})
            case AudioDelta(samples, rate):
                if self._encoder is None:
                    self._encoder = AudioEncoder(_streamed_format(self._asked), rate)
                yield from self._data(self._encoder.push(samples))
            case TurnDone() as done:
                yield from self._end(done)
            case _:
                pass

    def _end(self, done: TurnDone) -> Iterator[str]:
        if self._encoder is not None:
            yield from self._data(self._encoder.finish())
        yield self._chunk({}, FINISH[done.finish_reason])
        if self._asked.speaks:
            kept = self._chat.audio(done.text, self._audio)
            yield self._chunk({"audio": {"id": self._audio, "expires_at": kept["expires_at"]}})
        if self._asked.stream_options and self._asked.stream_options.include_usage:
            yield json.dumps(self._head | {"choices": [], "usage": usage(done)})

    def _data(self, data: bytes) -> Iterator[str]:
        if data:
            yield self._chunk({"audio": {"id": self._audio, "data": _base64(data)}})

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> str:
        return json.dumps(self._head | {"choices": [_choice({"delta": delta}, finish)]})


def _streamed_format(asked: ChatRequest) -> str:
    """Streams of "wav" are read as raw PCM by their clients."""
    name = (asked.audio or AudioRequest()).format
    return "pcm16" if name == "wav" else name


def _keep(kept: Kept, parts: list[Any], done: TurnDone) -> None:
    if done.finish_reason != "interrupted":
        kept.turns.append((digest(parts), done.text))


def _head(kind: str, model: str) -> dict[str, Any]:
    number = f"chatcmpl-{secrets.token_hex(12)}"
    return {"id": number, "object": kind, "created": int(time.time()), "model": model}


def _choice(content: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": 0, "finish_reason": finish, "logprobs": None} | content


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
