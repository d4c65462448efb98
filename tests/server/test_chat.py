"""Chat Completions with OpenAI's own client: text, media, speech, streams, reuse, refusals."""

import base64
import io
import time
import wave

import numpy as np
import openai
import pytest
from PIL import Image as Picture

from omni_runtime.conversation import Conversation
from omni_runtime.events import AudioDelta
from omni_runtime.inputs.messages import Audio
from omni_runtime.options import ReplyOptions, SpeechOptions
from omni_runtime.wav import pcm16, wav_header
from server.running import NAME, Running

QUESTION = "What is seven plus five?"
ANSWER = "Seven plus five is twelve."


def ask(server: Running, *messages, **options):
    given = [{"role": "user", "content": m} if not isinstance(m, dict) else m for m in messages]
    return server.openai().chat.completions.create(model=NAME, messages=given, **options)


def wav(samples: np.ndarray, rate: int) -> bytes:
    data = pcm16(samples)
    return wav_header(rate, len(data)) + data


def test_text(server: Running) -> None:
    reply = ask(server, QUESTION)
    choice = reply.choices[0]
    assert choice.message.content == ANSWER and choice.finish_reason == "stop"
    usage = reply.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_the_history_is_not_read_again(server: Running, model) -> None:
    """A client sends all turns each time; only the new one is prefilled."""
    history: list[dict] = [{"role": "user", "content": QUESTION}]
    for question in ("And plus three?", "Hello!", "What color is the sky?"):
        reply = ask(server, *history)
        history += [
            {"role": "assistant", "content": reply.choices[0].message.content},
            {"role": "user", "content": question},
        ]
    last = ask(server, *history)
    usage = last.usage
    assert usage.prompt_tokens_details.cached_tokens > usage.prompt_tokens * 0.7
    fresh = Conversation(model)
    for message in history[::2]:
        list(fresh.send(message["content"], ReplyOptions(None)))
    assert last.choices[0].message.content == fresh.messages[-1].parts[0].text  # type: ignore[union-attr]
    again = ask(server, *history)  # regenerated: the last turn is taken back
    assert again.choices[0].message.content == last.choices[0].message.content
    assert again.usage.prompt_tokens == usage.prompt_tokens
    assert again.usage.prompt_tokens_details.cached_tokens >= usage.prompt_tokens * 0.7


def test_a_turn_of_an_earlier_history_can_be_edited(run_server) -> None:
    """The engine has no turn for what came as history, so the conversation is made anew."""
    server = run_server()
    given = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    given += [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hello."}]
    assert ask(server, *given, "And plus three?").choices[0].message.content
    assert ask(server, *given[:2], "And plus three?").choices[0].message.content
    assert len(server.engine._entries) == 2, "both are kept for later requests"


def test_a_conversation_that_cannot_be_cut_is_closed(run_server, monkeypatch) -> None:
    server = run_server()
    history: list[dict] = [{"role": "user", "content": QUESTION}]
    for question in ("And plus three?", "Hello!"):
        text = ask(server, *history).choices[0].message.content
        history += [{"role": "assistant", "content": text}, {"role": "user", "content": question}]
    with monkeypatch.context() as patch:
        patch.setattr(Conversation, "undo", lambda *_: 1 / 0)
        with pytest.raises(openai.InternalServerError):
            ask(server, *history[:3])
    assert not server.engine._entries


def test_a_stream_of_text(server: Running) -> None:
    chunks = list(ask(server, QUESTION, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == ANSWER and chunks[-1].usage.completion_tokens > 3
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"


def test_speech_is_streamed_while_it_is_made(server: Running, model) -> None:
    options = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "pcm16"}}
    stream = ask(server, "Count from one to ten.", stream=True, **options)
    arrivals, data, transcript, ids, last = [], b"", "", set(), None
    for chunk in stream:
        audio = chunk.choices[0].delta.to_dict().get("audio") or {}
        ids |= {audio["id"]} if audio else set()
        transcript += audio.get("transcript") or ""
        if audio.get("data"):
            data += base64.b64decode(audio["data"])
            arrivals.append(time.perf_counter())
        last = audio or last
    assert transcript.startswith("One, two, three") and len(ids) == 1 and last["expires_at"]
    assert len(arrivals) > 2 and arrivals[-1] > arrivals[0]
    talk = Conversation(model)
    made = [
        event.samples
        for event in talk.send("Count from one to ten.", ReplyOptions(SpeechOptions()))
        if isinstance(event, AudioDelta)
    ]
    assert len(data) / 2 == pytest.approx(sum(map(len, made)), rel=0.05)


@pytest.mark.parametrize("name", ["wav", "mp3", "flac", "opus", "aac", "pcm16"])
def test_whole_speech_in_each_format(server: Running, name: str) -> None:
    options = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": name}}
    message = ask(server, QUESTION, **options).choices[0].message
    data = base64.b64decode(message.audio.data)
    assert message.audio.transcript == ANSWER and message.content is None
    if name == "pcm16":
        seconds = len(data) / 48_000
    else:
        from omni_runtime.inputs.media import load_audio  # noqa: PLC0415

        seconds = len(load_audio(data, 16_000)) / 16_000
    assert 1.0 < seconds < 20
    if name == "wav":
        with wave.open(io.BytesIO(data)) as file:
            assert file.getframerate() == 24_000


def test_a_spoken_reply_can_be_named_by_its_id(server: Running) -> None:
    options = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
    first = ask(server, QUESTION, **options).choices[0].message
    earlier = {"role": "assistant", "audio": {"id": first.audio.id}}
    reply = ask(server, QUESTION, earlier, "And plus three?")
    assert reply.usage.prompt_tokens_details.cached_tokens > 20
    assert "fifteen" in reply.choices[0].message.content.lower()
    with pytest.raises(openai.BadRequestError, match="expired"):
        ask(server, QUESTION, {"role": "assistant", "audio": {"id": "audio_x"}}, "And?")


def test_sound_and_pictures(server: Running, recording, model) -> None:
    sound = base64.b64encode(wav(recording("seven_plus_five", 16_000), 16_000)).decode()
    part = {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}}
    talk = Conversation(model)
    samples = recording("seven_plus_five", 16_000)
    list(talk.send([Audio(wav(samples, 16_000))], ReplyOptions(None)))
    wanted = talk.messages[-1].parts[0].text  # type: ignore[union-attr]
    assert ask(server, [part]).choices[0].message.content == wanted
    file = io.BytesIO()
    Picture.new("RGB", (64, 64), "red").save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    question = [
        {"type": "text", "text": "What do you see?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    assert ask(server, question).choices[0].message.content
    again = ask(server, question)
    assert again.choices[0].message.content


@pytest.mark.parametrize(
    ("messages", "match"),
    [
        ([], "last message"),
        ([{"role": "assistant", "content": "Hi"}], "last message"),
        ([{"role": "robot", "content": "Hi"}], "unknown role"),
        ([{"role": "user", "content": ""}], "last message"),
        ([{"role": "user", "content": [{"type": "smell"}]}], "unknown content type"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "needs a url"),
        ([{"role": "user", "content": 5}], "content must be"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}],
            "must be base64",
        ),
    ],
)
def test_refused(server: Running, messages, match: str) -> None:
    with pytest.raises(openai.BadRequestError, match=match):
        server.openai().chat.completions.create(model=NAME, messages=messages)


@pytest.mark.parametrize(
    "options", [{"n": 2}, {"temperature": 7}, {"top_p": 0}, {"max_tokens": -3},
                {"stop": ["."]}, {"logprobs": True}, {"response_format": {"type": "json_object"}},
                {"modalities": ["audio"], "audio": {"voice": "x", "format": "wav"}},
                {"modalities": ["audio"], "audio": {"voice": "alloy", "format": "midi"}}]
)  # fmt: skip
def test_options_out_of_range(server: Running, options: dict) -> None:
    with pytest.raises(openai.BadRequestError):
        ask(server, QUESTION, **options)


def test_limits_of_a_reply(server: Running) -> None:
    ignored = {"stop": [], "response_format": {"type": "text"}}
    reply = ask(server, "Count from one to ten.", max_tokens=3, **ignored)
    assert reply.choices[0].finish_reason == "length" and reply.usage.completion_tokens == 3


def test_a_client_that_hangs_up_cancels(server: Running) -> None:
    """At any point. Measured: 1 to 17 ms, and 95 ms for the first reply, which loads graphs."""
    body = {"messages": [{"role": "user", "content": "Who are you?"}], "stream": True}
    body |= {"modalities": ["text", "audio"], "model": NAME}
    ask(server, QUESTION, modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"})
    cancelled = 0
    for records in (1, 3, 6, 9, 12):
        with server.http() as client:
            with client.stream("POST", "/v1/chat/completions", json=body) as response:
                lines = response.iter_lines()
                for _ in range(2 * records - 1):  # each record is followed by an empty line
                    next(lines)
                cancelled += server.engine.replying
            assert server.seconds_until_idle() < 0.1
    assert cancelled > 2


def test_models_and_health(server: Running) -> None:
    (found,) = server.openai().models.list()
    assert found.id == NAME and "audio" in found.output_modalities  # type: ignore[attr-defined]
    assert server.openai().models.retrieve(NAME).id == NAME
    with server.http() as client:
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/v1/models/other").status_code == 404
        text = client.get("/metrics").text
    assert 'omni_requests_total{route="/v1/chat/completions",status="200"}' in text
    assert "omni_first_audio_seconds_bucket" in text
