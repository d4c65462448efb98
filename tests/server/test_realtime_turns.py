"""Turns that are committed, cancelled, changed and malformed, with OpenAI's own client."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
import websockets.sync.client as websocket
from websockets.exceptions import ConnectionClosed, InvalidStatus

from omni_runtime.memory import MIN_CONTEXT, AdmissionError, Budget
from omni_runtime.voice import pending
from omni_runtime.voice.engine_side import EngineSide
from server.realtime_client import RATE, Client, kinds, transcript
from server.running import Running
from server.test_chat import wav

pytestmark = pytest.mark.filterwarnings("ignore:connect:DeprecationWarning")

NO_DETECTION = {"input": {"turn_detection": None}}
SERVER_VAD = {"input": {"turn_detection": {"type": "server_vad"}}}


def no_room(*_: object) -> None:
    raise AdmissionError("speech does not fit", fix="close something")


def test_sound_beside_a_response_is_for_the_next_one(client: Client, recording: Callable) -> None:
    client.update(audio=NO_DETECTION)
    client.say("Count from one to ten.")
    client.until("response.output_audio.delta")
    client.sound(recording("seven_plus_five", RATE))
    client.connection.input_audio_buffer.commit()
    done = client.until("response.done")[-1].response
    assert done.status == "completed" and "ten" in transcript(client.seen)
    if "input_audio_buffer.committed" not in kinds(client.seen):
        client.until("input_audio_buffer.committed")
    client.connection.response.create()
    assert transcript(client.until("response.done")) == "Seven plus five is twelve."


def test_a_question_that_was_cancelled_early_is_answered_next(client: Client, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(EngineSide, "respond", lambda *_: None)
        client.say("What is seven plus five?")
        item = client.until("conversation.item.done")[-1].item.id
        client.until("response.content_part.added")
        client.connection.response.cancel()
        client.until("conversation.item.deleted")
    client.connection.conversation.item.retrieve(item_id=item)
    client.until("conversation.item.retrieved")
    client.connection.response.create()
    assert transcript(client.until("response.done")) == "Seven plus five is twelve."


def test_detection_after_sound_that_was_not_committed(client: Client, recording: Callable) -> None:
    client.update(audio=NO_DETECTION)
    client.silence(1.0)
    client.update(audio=SERVER_VAD)
    client.silence(0.5)
    client.sound(recording("seven_plus_five", RATE))
    client.silence(1.0)
    assert transcript(client.until("response.done")) == "Seven plus five is twelve."


def test_options_of_one_response(client: Client) -> None:
    wanted = {"output_modalities": ["text"], "max_output_tokens": 3, "metadata": {"a": "b"}}
    part = {"type": "input_text", "text": "What is seven plus five?"}
    item = {"type": "message", "role": "user", "content": [part]}
    client.connection.response.create(response=wanted | {"input": [item]})  # type: ignore[arg-type]
    events = client.until("response.done")
    response = events[-1].response
    assert "response.output_text.delta" in kinds(events) and response.metadata == {"a": "b"}
    assert response.output_modalities == ["text"] and response.max_output_tokens == 3
    assert response.status == "incomplete"
    client.say("What is seven plus five?")
    events = client.until("response.done")
    assert transcript(events) == "Seven plus five is twelve."
    assert events[-1].response.max_output_tokens == "inf" and not events[-1].response.metadata


def test_an_update_that_is_refused_changes_nothing(client: Client) -> None:
    wrong = {"type": "realtime", "output_modalities": ["text"], "audio": {"output": {"voice": "x"}}}
    client.connection.session.update(session=wrong)  # type: ignore[arg-type]
    client.until("error")
    assert client.update().output_modalities == ["audio"]


def test_turns_that_wait_stay_items(client: Client, recording: Callable) -> None:
    detection = {"type": "server_vad", "create_response": False}
    client.update(audio={"input": {"turn_detection": detection}})
    items = []
    for _ in range(2):
        client.sound(recording("seven_plus_five", RATE))
        client.silence(1.0)
        items.append(client.until("input_audio_buffer.committed")[-1].item_id)
        client.until("conversation.item.done")
    for item in items:
        client.connection.conversation.item.retrieve(item_id=item)
        client.until("conversation.item.retrieved")
    assert "conversation.item.deleted" not in kinds(client.seen)


def item(content: object) -> dict[str, Any]:
    message = {"type": "message", "role": "user", "content": content}
    return {"type": "conversation.item.create", "item": message}


MALFORMED = [
    item(5),
    item([5]),
    item("x"),
    item({"a": 1}),
    {"type": "response.create", "response": {"input": 5}},
    {"type": "response.create", "response": {"input": [5]}},
    {"type": "response.create", "response": {"output_modalities": [{}]}},
    {"type": "session.update", "session": {"output_modalities": [{}]}},
    {"type": "session.update", "session": {"output_modalities": {"audio": 1}}},
    {"type": "session.update", "session": {"max_output_tokens": True}},
    {"type": "conversation.item.truncate", "item_id": "x", "audio_end_ms": "1"},
]


def test_malformed_events_are_errors(server: Running) -> None:
    with websocket.connect(f"ws://127.0.0.1:{server.port}/v1/realtime") as connection:
        connection.recv()

        def answer(given: object) -> dict[str, Any]:
            connection.send(given if isinstance(given, bytes) else json.dumps(given))
            return json.loads(connection.recv(timeout=30))

        for given in [*MALFORMED, b"\x00"]:
            found = answer(given)
            assert found["type"] == "error", given
            assert found["error"]["type"] == "invalid_request_error", (given, found)
        text = [{"type": "output_text", "text": "Hello."}]
        add = {"type": "message", "role": "assistant", "content": text}
        found = answer({"type": "conversation.item.create", "item": add})
        where = {"type": "conversation.item.truncate", "item_id": found["item"]["id"]}
        assert json.loads(connection.recv())["type"] == "conversation.item.done"
        found = answer(where | {"audio_end_ms": 10**400})
        assert "no spoken reply" in found["error"]["message"]


def test_media_are_not_repeated(client: Client, recording: Callable) -> None:
    data = base64.b64encode(wav(recording("ten", 16_000), 16_000)).decode()
    part = {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{data}"}}
    client.connection.send(item([part, {"type": "input_text", "text": "What?"}]))  # type: ignore[arg-type]
    (event,) = [e for e in client.until("conversation.item.done") if e.type.endswith("done")]
    assert [sorted(part.to_dict()) for part in event.item.content] == [["type"], ["text", "type"]]


def test_what_waits_for_a_response_is_bounded(client: Client, monkeypatch) -> None:
    monkeypatch.setattr(pending, "MAX_PARTS", 2)

    def add(*names: str, **fields: str) -> None:
        added = item([{"type": "input_text", "text": name} for name in names])
        added["item"] |= fields
        client.connection.send(added)  # type: ignore[arg-type]

    for n, fields in enumerate(({}, {"role": "assistant"}) * 2):
        add("Hello!", **fields)
        client.until("conversation.item.done" if n < 3 else "error")
    add("one", "two")
    assert "wait for a reply" in client.until("error")[-1].error.message


def test_a_session_without_room_is_refused(server: Running, monkeypatch, caplog) -> None:
    address = f"ws://127.0.0.1:{server.port}/v1/realtime"
    with monkeypatch.context() as patch:
        patch.setattr(Budget, "promise_speech", no_room)
        with pytest.raises(InvalidStatus) as refused:
            websocket.connect(address)
    assert refused.value.response.status_code == 503
    with websocket.connect(address) as connection:
        connection.recv()
        monkeypatch.setattr(Budget, "promise_speech", no_room)
        update = {"type": "session.update", "session": {"instructions": "Be brief."}}
        connection.send(json.dumps(update))
        assert json.loads(connection.recv())["error"]["code"] == "out_of_memory"
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv()
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1013
    assert not [record for record in caplog.records if record.exc_info]


def test_a_session_that_speaks_keeps_room_for_speech(model) -> None:
    footprint = model.budget.footprint
    both = footprint.needed(MIN_CONTEXT, speech=False) + footprint.context(
        MIN_CONTEXT, speech=False
    )
    enough = footprint.needed(MIN_CONTEXT, speech=True)
    assert enough < both + sum(footprint.graphs.values())
    budget = Budget(footprint, max(both, enough))
    budget.promise_speech()
    first = budget.lease(MIN_CONTEXT)
    with pytest.raises(AdmissionError):
        budget.lease(MIN_CONTEXT)
    assert first.tokens == MIN_CONTEXT
    unpromised = Budget(footprint, max(both, enough))
    leases = [unpromised.lease(MIN_CONTEXT) for _ in range(2)]
    with pytest.raises(AdmissionError, match="speech does not fit"):
        unpromised.promise_speech()
    del leases
