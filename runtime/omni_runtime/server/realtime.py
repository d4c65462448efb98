"""WS /v1/realtime: OpenAI's realtime protocol (GA), a thin shell of a voice session.

The session's state machine decides about turns, interruptions and cuts; this file translates. What
the user has heard is what a client reports with conversation.item.truncate. Until then it is taken
to be all that could have been played since the first sound, which is never less.
"""

import asyncio
import base64
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import perf_counter
from typing import Any

import msgspec
import numpy as np
import soxr  # pyright: ignore[reportMissingTypeStubs]
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from omni_runtime.arrays import FloatArray
from omni_runtime.errors import OmniError
from omni_runtime.inputs.messages import ContentPart, Image, Message, Text
from omni_runtime.server import errors
from omni_runtime.server.content import PCM_RATE, decode_base64, parts_of, pcm16_samples
from omni_runtime.server.errors import ApiError, busy
from omni_runtime.server.realtime_events import (
    Items,
    Record,
    ResponseRecord,
    error,
    identifier,
    message,
)
from omni_runtime.server.realtime_input import chat_part, decoded, items, seconds, shown
from omni_runtime.server.realtime_session import SessionConfig
from omni_runtime.server.replies import opened
from omni_runtime.server.state import State
from omni_runtime.serving.commands import Open
from omni_runtime.voice import events as voice
from omni_runtime.voice.pending import require_room
from omni_runtime.voice.session import VoiceSession
from omni_runtime.voice.vad import SAMPLE_RATE
from omni_runtime.wav import pcm16

log = logging.getLogger("omni.server")

PROTOCOL = "realtime"
TICK = 0.05
"""Seconds between two looks at how much of a reply can have been heard."""
BATCH = SAMPLE_RATE // 25
"""Samples that are gathered before the session hears them: clients may send tiny frames."""
MAX_TURN_SECONDS = 600
OPTIONS = ("output_modalities", "max_output_tokens", "audio")
"""What a response may have of its own."""
TRY_AGAIN = 1013
"""Why a connection is closed: try again later."""


class Realtime:
    """The route; counts its sessions."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._open = 0

    async def serve(self, socket: WebSocket) -> None:
        """Serve one connection to its end."""
        if self._open >= self._state.settings.sessions:
            refusal = errors.response(busy("too many sessions are open"))
            await socket.send_denial_response(refusal)
            return
        self._open += 1
        self._state.metrics.sessions.set(self._open)
        try:
            await Connection(self._state, socket).run()
        except OmniError as error:  # before the handshake
            await socket.send_denial_response(errors.response(error))
        finally:
            self._open -= 1
            self._state.metrics.sessions.set(self._open)


class Connection:
    """One client: its session, its items, and the response in progress."""

    def __init__(self, state: State, socket: WebSocket) -> None:
        self._state = state
        self._socket = socket
        self._config = SessionConfig(state)
        self._items = Items()
        self._events: asyncio.Queue[voice.SessionEvent] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._session: VoiceSession | None = None
        self._resampler: Any = soxr.ResampleStream(PCM_RATE, SAMPLE_RATE, 1, quality="HQ")
        self._captured = np.zeros(0, np.float32)
        self._response: ResponseRecord | None = None
        self._asked: tuple[SessionConfig, object] | None = None
        self._first_sound = 0.0
        self._history: list[Message] = []
        self._answered = False
        self._turn_item = ""  # the user item whose sound is being heard
        self._cancelled_by = "turn_detected"

    async def run(self) -> None:
        """Serve until the client leaves. Raises OmniError if there is no room for it."""
        await self._start()
        tasks: list[asyncio.Task[None]] = []
        try:
            offered = self._socket.scope.get("subprotocols", ())
            await self._socket.accept(PROTOCOL if PROTOCOL in offered else None)
            await self._send({"type": "session.created", "session": self._config.record})
            tasks = [asyncio.create_task(work()) for work in (self._forward, self._tick)]
            await self._receive()
        except WebSocketDisconnect:
            pass
        finally:
            for task in tasks:
                task.cancel()
            with suppress(OmniError):  # it was closed already
                await asyncio.shield(asyncio.to_thread(self.session.close))

    async def _start(self) -> None:
        """Open a conversation with the present instructions. Raises AdmissionError."""
        engine, config = self._state.engine, self._config
        if engine.model.config.speech is not None:
            await asyncio.to_thread(self._promise_speech)
        command = Open(config.instructions, self._state.settings.context, [*self._history])
        conversation = await opened(engine, command)
        self._session = VoiceSession(
            conversation,
            lambda event: self._loop.call_soon_threadsafe(self._events.put_nowait, event),
            turns=config.turns(),
            reply=config.reply(),
        )
        self._configure(self._session)

    def _promise_speech(self) -> None:
        model = self._state.engine.model
        with model.lock:
            model.budget.promise_speech()

    async def _restart(self) -> None:
        """Open the conversation anew; without room for that the connection ends."""
        await asyncio.to_thread(self.session.close)
        try:
            await self._start()
        except OmniError as failed:
            found = errors.described(failed)[1]
            await self._send(error(found["message"], found["code"], None, found["type"]))
            await self._socket.close(TRY_AGAIN)
            raise WebSocketDisconnect(TRY_AGAIN) from None

    def _configure(self, session: VoiceSession) -> None:
        detection = self._config.detection
        session.set_turns(self._config.turns())
        session.set_hands_free(detection is not None)
        session.answers = detection is not None and detection["create_response"]
        session.interruptible = detection is None or detection["interrupt_response"]
        session.full_duplex = session.interruptible
        session.reply_options = self._config.reply()

    @property
    def session(self) -> VoiceSession:
        """The voice session, which exists while the connection is served."""
        assert self._session is not None
        return self._session

    # From the client

    async def _receive(self) -> None:
        while True:
            self._require_client()
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect
            event_id = None
            try:
                given = decoded(message.get("text"))
                event_id = given.get("event_id")
                handler = self._handlers().get(str(given.get("type")))
                if handler is None:
                    raise ApiError(f"unknown event {given.get('type')!r}", code="unknown_event")
                await handler(given)
            except WebSocketDisconnect:
                raise
            except Exception as failed:  # what is not known is logged
                found = errors.described(failed)[1]
                await self._send(error(found["message"], found["code"], event_id, found["type"]))

    def _handlers(self) -> dict[str, Callable[[Mapping[str, Any]], Any]]:
        return {
            "session.update": self._update,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit,
            "input_audio_buffer.clear": self._clear,
            "conversation.item.create": self._create_item,
            "conversation.item.retrieve": self._retrieve,
            "conversation.item.truncate": self._truncate,
            "conversation.item.delete": self._delete,
            "response.create": self._respond,
            "response.cancel": self._cancel,
        }

    async def _update(self, given: Mapping[str, Any]) -> None:
        wanted = given.get("session")
        if not isinstance(wanted, Mapping):
            raise ApiError("session must be an object", param="session")
        before = self._config.instructions
        if self._items.records:  # the system prompt has been read: it stays
            wanted = {name: value for name, value in wanted.items() if name != "instructions"}
        self._config = self._config.changed(wanted)
        if self._config.instructions != before:
            await self._restart()
        await asyncio.to_thread(self._configure, self.session)
        await self._send({"type": "session.updated", "session": self._config.record})

    async def _append(self, given: Mapping[str, Any]) -> None:
        samples = pcm16_samples(decode_base64(given.get("audio"), "audio"))
        heard = np.asarray(self._resampler.resample_chunk(samples), np.float32)
        self._captured = np.concatenate([self._captured, heard])
        if len(self._captured) < BATCH:
            return
        captured, self._captured = self._captured, np.zeros(0, np.float32)
        await asyncio.to_thread(self._hear, captured)

    def _hear(self, samples: FloatArray) -> None:
        session = self.session
        if not session.hands_free and not session.key_down:
            session.key(True)
        if session.turn_seconds > MAX_TURN_SECONDS:
            session.discard()
            raise ApiError("the turn is too long and was discarded", code="input_too_long")
        session.hear(samples)

    async def _commit(self, _given: Mapping[str, Any]) -> None:
        """End a turn. With turn detection the server does that."""
        rest, self._captured = self._captured, np.zeros(0, np.float32)

        def commit() -> bool:
            session = self.session
            if len(rest):
                self._hear(rest)
            if session.hands_free or not session.key_down:
                return False
            session.key(False)
            return True

        if not await asyncio.to_thread(commit):
            raise ApiError("there is nothing to commit", code="input_audio_buffer_commit_empty")

    async def _clear(self, _given: Mapping[str, Any]) -> None:
        self._captured = np.zeros(0, np.float32)
        await asyncio.to_thread(self.session.discard)
        await self._send({"type": "input_audio_buffer.cleared"})

    async def _create_item(self, given: Mapping[str, Any]) -> None:
        item = given.get("item")
        if not isinstance(item, Mapping) or item.get("type") != "message":
            raise ApiError("only items of type message are supported", param="item")
        content = items(item.get("content"), "item.content")
        parts = parts_of([*map(chat_part, content)], self._state.settings)
        if not parts:
            raise ApiError("the item has no content", param="item.content")
        role = item.get("role")
        match role:
            case "user" if len(parts) == 1 and isinstance(parts[0], Image):
                self.session.see(parts[0])  # a camera: the newest picture of a turn counts
            case (
                "user" | "system" | "developer"
            ):  # the template has one system prompt, at the start
                self.session.add(*parts)
            case "assistant":
                await self._replay(parts)
            case _:
                raise ApiError(f"unknown role {role!r}", param="item.role")
        record = message(role, [*map(shown, content)])
        if isinstance(item.get("id"), str):
            record["id"] = item["id"]
        await self._added(record)

    async def _replay(self, parts: list[ContentPart]) -> None:
        """A reply of an earlier session: it and what was added before become history."""
        if self._answered:
            raise ApiError("replies can be added before the first one", code="unsupported")
        known = [part for message in self._history for part in message.parts]
        require_room([*known, *parts])
        asked = self.session.take_added() or [Text("...")]
        self._history += [Message("user", asked), Message("assistant", parts)]
        await self._restart()

    async def _added(self, record: Record) -> None:
        previous = self._items.add(record)
        for kind in ("added", "done"):
            name = f"conversation.item.{kind}"
            await self._send({"type": name, "previous_item_id": previous, "item": record})

    def _item(self, given: Mapping[str, Any]) -> Record:
        found = self._items.records.get(str(given.get("item_id")))
        if found is None:
            code = f"item_{str(given['type']).rpartition('.')[2]}_invalid_item_id"
            raise ApiError("there is no such item", code=code, param="item_id")
        return found

    async def _retrieve(self, given: Mapping[str, Any]) -> None:
        await self._send({"type": "conversation.item.retrieved", "item": self._item(given)})

    async def _truncate(self, given: Mapping[str, Any]) -> None:
        item, milliseconds = self._item(given), given.get("audio_end_ms")
        heard = seconds(milliseconds, "audio_end_ms")
        spoken = [i for i in self._items.records.values() if i["role"] == "assistant"]
        if not spoken or item is not spoken[-1]:
            raise ApiError("only the last reply can be cut", code="item_truncate_invalid_item_id")
        left = await asyncio.to_thread(self.session.truncate, heard)
        item["content"] = [{"type": "output_audio", "transcript": left}]
        where = {"item_id": item["id"], "content_index": 0, "audio_end_ms": milliseconds}
        await self._send({"type": "conversation.item.truncated"} | where)

    async def _delete(self, given: Mapping[str, Any]) -> None:
        """Only the last reply that nobody heard; the caches hold what was said before."""
        item = self._item(given)
        if item["role"] == "assistant":
            await self._truncate({**given, "audio_end_ms": 0})
        else:
            raise ApiError("user items stay", code="item_delete_invalid_item_id")
        del self._items.records[item["id"]]
        await self._send({"type": "conversation.item.deleted", "item_id": item["id"]})

    async def _respond(self, given: Mapping[str, Any]) -> None:
        if self._response is not None and self._response.open:
            raise ApiError(
                "a response is in progress", code="conversation_already_has_active_response"
            )
        wanted = given.get("response")
        wanted = wanted if isinstance(wanted, Mapping) else {}
        if wanted.get("conversation") == "none":
            raise ApiError("conversation must be auto", param="conversation", code="unsupported")
        config = self._config.changed({name: wanted[name] for name in OPTIONS if name in wanted})
        for item in items(wanted.get("input"), "response.input"):
            await self._create_item({"item": item})
        self._asked = config, wanted.get("metadata")
        if not await asyncio.to_thread(self.session.respond, config.reply()):
            await self._nothing()

    async def _nothing(self) -> None:
        """Answer a request to respond to nothing: clients send one when they connect."""
        response = self._new_response()
        for record in [*response.created(), response.empty()]:
            await self._send(record)

    def _new_response(self) -> ResponseRecord:
        """The record of a response: one that was asked for has options of its own."""
        (config, metadata), self._asked = self._asked or (self._config, None), None
        return ResponseRecord(config.record, metadata, speaks=config.speaks)

    async def _cancel(self, _given: Mapping[str, Any]) -> None:
        if self._response is None or not self._response.open:
            raise ApiError("no response is in progress", code="response_cancel_not_active")
        self._cancelled_by = "client_cancelled"
        await asyncio.to_thread(self.session.interrupt)

    # To the client

    async def _send(self, record: Record) -> None:
        event = {"event_id": identifier("event"), **record}
        self._require_client()
        await self._socket.send_text(msgspec.json.encode(event).decode())

    def _require_client(self) -> None:
        """Raise WebSocketDisconnect if an earlier send found that the client has left."""
        if self._socket.application_state is not WebSocketState.CONNECTED:
            raise WebSocketDisconnect

    async def _tick(self) -> None:
        """Let the session know how much of the reply can have been heard."""
        while True:
            await asyncio.sleep(TICK)
            response = self._response
            if response is not None and response.audio_started:
                made = response.samples / self._state.engine.model.speech.vocoder.sample_rate
                heard = min(perf_counter() - self._first_sound, made)
                await asyncio.to_thread(self.session.played, heard)

    async def _forward(self) -> None:
        """Translate the session's events, one after the other."""
        try:
            while True:
                await self._event(await self._events.get())
        except WebSocketDisconnect:
            return

    async def _event(self, event: voice.SessionEvent) -> None:
        match event:
            case voice.StateChanged(voice.State.HEARING) if self.session.hands_free:
                await self._speech_started(event.at)
            case voice.TurnTaken():
                await self._turn_taken(event)
            case voice.StateChanged(voice.State.THINKING):
                await self._response_started()
            case voice.Caption(text) if self._response is not None:
                await self._send(self._response.text_delta(text))
            case voice.Speech(samples, rate, first) if self._response is not None:
                await self._speech(samples, rate, first)
            case voice.TurnFigures(turn, _, _, _) if self._response is not None:
                self._state.metrics.reply(turn)
                if turn.finish_reason in ("stop", "interrupted"):
                    await self._finish("completed", None, turn)
                else:
                    await self._finish("incomplete", "max_output_tokens", turn)
            case voice.Interrupted():
                await self._interrupted(event)
            case voice.ReplyFailed(failed):
                await self._failed(failed)
            case _:
                pass

    async def _speech_started(self, at: float) -> None:
        if self._turn_item in self._items.records:  # the turn goes on: its item was not the end
            del self._items.records[self._turn_item]
            await self._send({"type": "conversation.item.deleted", "item_id": self._turn_item})
        self._turn_item = identifier("item")
        started = {"audio_start_ms": round(at * 1000), "item_id": self._turn_item}
        await self._send({"type": "input_audio_buffer.speech_started"} | started)

    async def _turn_taken(self, event: voice.TurnTaken) -> None:
        record = message("user", [{"type": "input_audio", "transcript": None}])
        if self.session.hands_free:
            record["id"] = self._turn_item or record["id"]
            stopped = {"audio_end_ms": round(event.end * 1000), "item_id": record["id"]}
            await self._send({"type": "input_audio_buffer.speech_stopped"} | stopped)
        previous = next(reversed(self._items.records), None)
        committed = {"previous_item_id": previous, "item_id": record["id"]}
        await self._send({"type": "input_audio_buffer.committed"} | committed)
        await self._added(record)
        if not self.session.answers:  # it does not go on
            self._turn_item = ""

    async def _response_started(self) -> None:
        response = self._response = self._new_response()
        self._answered = True
        self._cancelled_by = "turn_detected"
        for record in response.created():
            await self._send(record)
        for record in response.started(self._items.add(response.item)):
            await self._send(record)

    async def _speech(self, samples: FloatArray, rate: int, first: int) -> None:
        assert self._response is not None
        self._turn_item = ""  # it has been answered
        if not first:
            self._first_sound, self._response.audio_started = perf_counter(), True
        assert rate == PCM_RATE, rate
        data = base64.b64encode(pcm16(samples)).decode()
        await self._send(self._response.audio_delta(data, len(samples)))

    async def _finish(self, status: str, reason: str | None, turn: Any) -> None:
        assert self._response is not None
        if self._response.open:
            for record in self._response.done(status, reason, turn):
                await self._send(record)
        if not self._response.speaks:
            self._turn_item = ""

    async def _interrupted(self, event: voice.Interrupted) -> None:
        response = self._response
        if response is None:
            return
        await self._finish("cancelled", self._cancelled_by, None)
        response.audio_started = False
        if not event.goes_on:  # the item of the turn stays
            self._turn_item = ""
        if response.speaks:
            response.item["content"] = [{"type": "output_audio", "transcript": event.heard}]
        if not event.heard and not response.samples:
            self._items.records.pop(response.item["id"], None)
            deleted = {"type": "conversation.item.deleted", "item_id": response.item["id"]}
            await self._send(deleted)

    async def _failed(self, failed: BaseException) -> None:
        found = errors.described(failed)[1]
        if self._response is not None and self._response.open:
            self._items.records.pop(self._response.item["id"], None)
            await self._send(self._response.failed(found))
        else:
            await self._send(error(found["message"], found["code"], None, found["type"]))
