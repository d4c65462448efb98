"""The realtime protocol with OpenAI's own client: whole spoken turns, cuts, pictures, errors."""

import asyncio
import base64
import json
import time
from collections.abc import Callable, MutableMapping
from typing import Any

import numpy as np
import pytest

from omni_runtime.conversation import Conversation
from omni_runtime.wav import pcm16
from server.realtime_client import FRAME, RATE, Client, kinds, speech, transcript
from server.running import NAME, Running

# The SDK opens its connection as websockets 17 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:connect:DeprecationWarning")

IN_ORDER = [
    "input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed", "conversation.item.added", "conversation.item.done",
    "response.created", "response.output_item.added", "conversation.item.added",
    "response.content_part.added", "response.output_audio_transcript.delta",
    "response.output_audio.delta", "response.output_audio.done",
    "response.output_audio_transcript.done", "response.content_part.done",
    "response.output_item.done", "conversation.item.done", "response.done",
]  # fmt: skip


def test_a_spoken_turn(client: Client, recording: Callable) -> None:
    client.silence(0.5)
    client.sound(recording("seven_plus_five", RATE))
    client.silence(1.0)
    events = client.until("response.done")
    found = kinds(events)
    place = -1
    for kind in IN_ORDER:
        place = found.index(kind, place + 1)
    assert transcript(events) == "Seven plus five is twelve."
    assert len(speech(events)) > RATE
    response = events[-1].response
    assert response.status == "completed" and response.usage.output_tokens > 3
    assert response.output[0].content[0].transcript == transcript(events)
    ids = {e.response_id for e in events if getattr(e, "response_id", None)}
    assert ids == {response.id} and all(event.event_id for event in events)
    started, stopped = events[0], next(e for e in events if e.type.endswith("speech_stopped"))
    assert 300 < started.audio_start_ms < 900 < stopped.audio_end_ms
    assert started.item_id == stopped.item_id


def test_two_turns_share_a_context(client: Client) -> None:
    client.say("What is seven plus five?")
    client.until("response.done")
    client.say("And plus three?")
    last = client.until("response.done")
    assert "fifteen" in transcript(last).lower()
    details = last[-1].response.usage.input_token_details
    assert details.cached_tokens > 20


def test_turns_that_the_client_commits(client: Client, recording: Callable) -> None:
    session = client.update(audio={"input": {"turn_detection": None}})
    assert session.audio.input.turn_detection is None
    client.sound(recording("seven_plus_five", RATE))
    client.silence(1.5)
    client.connection.input_audio_buffer.commit()
    events = client.until("conversation.item.done")
    assert kinds(events)[0] == "input_audio_buffer.committed", "no answer unasked"
    client.connection.response.create()
    assert transcript(client.until("response.done")) == "Seven plus five is twelve."
    client.connection.input_audio_buffer.commit()
    assert client.until("error")[-1].error.code == "input_audio_buffer_commit_empty"


def test_a_voice_interrupts_and_truncate_rewinds(
    client: Client, server: Running, recording: Callable, model
) -> None:
    """The next turn is that of a conversation with the history that the client heard."""
    client.say("Count from one to ten.")
    events = client.until("response.output_audio.delta")
    item = events[-1].item_id
    time.sleep(1.3)
    client.sound(recording("ten", RATE))
    client.until("input_audio_buffer.speech_started")
    if not any(e.type == "response.done" for e in client.seen):
        raise AssertionError("cancelled before the new turn")
    client.connection.conversation.item.truncate(item_id=item, content_index=0, audio_end_ms=700)
    client.until("conversation.item.truncated")
    client.connection.conversation.item.retrieve(item_id=item)
    left = client.until("conversation.item.retrieved")[-1].item.content[0].transcript
    assert left and "One, two, three, four, five, six".startswith(left) and len(left) < 20
    client.connection.input_audio_buffer.clear()
    client.until("input_audio_buffer.cleared")
    client.update(output_modalities=["text"])
    client.say("What is two plus two?")
    answer = client.until("response.done")
    talk = list(server.engine._entries.values())[-1].conversation
    fresh = Conversation(model, history=talk.messages[1:3])
    list(fresh.send("What is two plus two?"))
    assert fresh.last_tokens == talk.last_tokens
    text = "".join(e.delta for e in answer if e.type == "response.output_text.delta")
    assert text == fresh.messages[-1].parts[0].text  # type: ignore[union-attr]
    assert talk.messages[2].parts[0].text == left  # type: ignore[union-attr]


def test_cancel(client: Client) -> None:
    client.say("Who are you?")
    client.until("response.output_audio_transcript.delta")
    begun = time.perf_counter()
    client.connection.response.cancel()
    ended = client.until("response.done")
    assert time.perf_counter() - begun < 0.3
    response = ended[-1].response
    if response.status != "completed":  # it was quicker than we are
        assert response.status == "cancelled"
        assert response.status_details.reason == "client_cancelled"
        assert "response.output_audio.done" in kinds(ended)
    client.connection.response.cancel()
    assert client.until("error")[-1].error.code == "response_cancel_not_active"
    client.say("What is seven plus five?")
    assert transcript(client.until("response.done")) == "Seven plus five is twelve."


def test_pictures(client: Client) -> None:
    import io  # noqa: PLC0415

    from PIL import Image as Picture  # noqa: PLC0415

    def item(color: str) -> dict:
        file = io.BytesIO()
        Picture.new("RGB", (56, 56), color).save(file, "JPEG")
        url = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
        part = {"type": "input_image", "image_url": url}
        return {"type": "message", "role": "user", "content": [part]}

    for color in ("red", "green", "blue"):  # a camera: the newest one counts
        client.connection.conversation.item.create(item=item(color))
        client.until("conversation.item.done")
    client.say("What do you see?")
    first = client.until("response.done")[-1].response.usage.input_tokens
    client.say("What do you see?")
    second = client.until("response.done")[-1].response.usage.input_tokens
    assert second - first < first, "one picture in the first turn, none in the second"


def test_session_updates(client: Client) -> None:
    session = client.update(
        instructions="Answer in one word.",
        tracing="auto",
        audio={
            "input": {"turn_detection": {"type": "semantic_vad", "eagerness": "low"}},
            "output": {"voice": "ash", "speed": 1.0},
        },
    )
    assert session.instructions == "Answer in one word."
    assert session.audio.input.turn_detection.silence_duration_ms == 1500
    assert session.audio.output.voice
    client.say("Hello!")
    client.until("response.done")
    kept = client.update(instructions="Something else.")
    assert kept.instructions == "Answer in one word.", "what was read stays"
    for wrong in (
        {"audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 7}}}},
        {"audio": {"output": {"voice": "nobody"}}},
        {"audio": {"input": {"format": {"type": "audio/pcmu"}}}},
        {"max_output_tokens": -1},
        {"output_modalities": ["smell"]},
    ):
        client.connection.session.update(session={"type": "realtime", **wrong})
        client.until("error")


def test_errors_name_the_event(client: Client) -> None:
    connection = client.connection
    connection.send({"type": "response.destroy", "event_id": "mine"})
    found = client.until("error")[-1].error
    assert found.code == "unknown_event" and found.event_id == "mine"
    connection.conversation.item.retrieve(item_id="item_x")
    assert client.until("error")[-1].error.code == "item_retrieve_invalid_item_id"
    client.say("Who are you?")
    client.until("response.created")
    connection.response.create()
    error = client.until("error")[-1].error
    assert error.code == "conversation_already_has_active_response"
    client.until("response.done")


def test_a_connection_that_drops_cancels(server: Running) -> None:
    for wait in (0.0, 0.1, 0.2):
        with server.openai().realtime.connect(model=NAME) as connection:
            client = Client(connection)
            client.until("session.created")
            client.say("Count from one to ten.")
            client.until("response.output_audio.delta")
            time.sleep(wait)
            assert server.engine.replying
        assert server.seconds_until_idle() < 0.1


def test_connections_that_drop_leave_nothing(server: Running, recording: Callable) -> None:
    time.sleep(0.2)  # the test before this one has left
    before = len(server.engine._entries)
    for n in range(6):
        with server.openai().realtime.connect(model=NAME) as connection:
            client = Client(connection)
            client.until("session.created")
            if n % 3 == 1:
                client.sound(recording("seven_plus_five", RATE)[: n * 4000])
            if n % 3 == 2:
                client.say("Who are you?")
                client.until("response.output_audio.delta")
    for _ in range(100):
        if len(server.engine._entries) <= before:
            break
        time.sleep(0.05)
    assert len(server.engine._entries) == before and server.seconds_until_idle() < 0.1


def test_a_client_that_vanishes_is_no_error(server: Running, recording: Callable) -> None:
    """Its sound is still read when the events that it causes cannot be sent any more."""
    spoken = np.tile(recording("seven_plus_five", RATE), 4)
    events: list[dict[str, Any]] = [{"type": "websocket.connect"}]
    for start in range(0, len(spoken), FRAME):
        sound = base64.b64encode(pcm16(spoken[start : start + FRAME])).decode()
        text = json.dumps({"type": "input_audio_buffer.append", "audio": sound})
        events.append({"type": "websocket.receive", "text": text})
    sent: list[str] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.001)
        return events.pop(0) if events else {"type": "websocket.disconnect", "code": 1006}

    async def send(message: MutableMapping[str, Any]) -> None:
        if len(sent) == 2:
            raise OSError
        sent.append(message["type"])

    scope = {"type": "websocket", "path": "/v1/realtime", "headers": [(b"host", b"localhost")],
             "query_string": b"", "subprotocols": []}  # fmt: skip
    asyncio.run(server.app(scope, receive, send))
    assert sent == ["websocket.accept", "websocket.send"]
    assert events, "no event was sent while sound arrived"


def test_history_and_instructions_as_items(client: Client) -> None:
    """Clients that reconnect replay the conversation; frameworks ask for a response at once."""
    client.connection.response.create()
    empty = client.until("response.done")[-1].response
    assert empty.status == "completed" and not empty.output

    def add(role: str, kind: str, text: str) -> None:
        part = {"type": kind, "text": text}
        item = {"type": "message", "role": role, "content": [part]}
        client.connection.conversation.item.create(item=item)  # type: ignore[arg-type]

    for role, kind, text in (
        ("user", "input_text", "What is seven plus five?"),
        ("assistant", "output_text", "Seven plus five is twelve."),
        ("system", "input_text", "Please:"),
    ):
        add(role, kind, text)
        client.until("conversation.item.done")
    client.say("And plus three?")
    assert "fifteen" in transcript(client.until("response.done")).lower()
    add("assistant", "output_text", "x")
    assert client.until("error")[-1].error.code == "unsupported"
