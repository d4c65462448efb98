"""One owner thread: conversations that take turns are each what they are alone."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from conftest import Twin
from omni_runtime.conversation import Conversation
from omni_runtime.engine.session import SessionOptions
from omni_runtime.errors import MediaError, OmniError, UsageError
from omni_runtime.events import AudioDelta, Event, TextDelta, TurnDone
from omni_runtime.inputs.messages import Audio, Text
from omni_runtime.memory import MIN_CONTEXT, AdmissionError
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, SpeechOptions
from omni_runtime.serving.commands import Append, Open
from omni_runtime.serving.engine import Engine, EngineConversation

SPOKEN = ReplyOptions(SpeechOptions(preset="fast", max_codes=60), max_tokens=10)
SILENT = ReplyOptions(None, max_tokens=10)


@pytest.fixture
def engine(default_twin: Twin) -> Iterator[Engine]:
    with Engine(default_twin.model) as engine:
        yield engine


def parts_of(events: list[Event]) -> tuple[str, np.ndarray]:
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    sound = [event.samples for event in events if isinstance(event, AudioDelta)]
    return text, np.concatenate([np.zeros(0, np.float32), *sound])


def alone(model: Model, prompts: list[str], options: ReplyOptions) -> list[tuple[str, np.ndarray]]:
    talk = Conversation(model)
    return [parts_of(list(talk.send(prompt, options))) for prompt in prompts]


def same(found: tuple[str, np.ndarray], wanted: tuple[str, np.ndarray]) -> bool:
    return found[0] == wanted[0] and np.array_equal(found[1], wanted[1])


def test_many_threads_on_one_engine(engine: Engine) -> None:
    """Each thread has its own conversation; no reply has a word or a sample of another."""
    prompts = [[f"Number {number}, turn {turn}" for turn in range(3)] for number in range(8)]
    wanted = [alone(engine.model, mine, SPOKEN) for mine in prompts]
    wrong: list[object] = []

    def talk(number: int) -> None:
        try:
            conversation = engine.open()
            for prompt, expected in zip(prompts[number], wanted[number], strict=True):
                if not same(
                    parts_of(list(conversation.send(Text(prompt), options=SPOKEN))), expected
                ):
                    wrong.append(prompt)
            conversation.close()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=talk, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_many_threads_on_one_model_without_an_engine(default_twin: Twin) -> None:
    prompts = [[f"Number {number}, turn {turn}" for turn in range(3)] for number in range(4)]
    wanted = [alone(default_twin.model, mine, SPOKEN) for mine in prompts]
    found: dict[int, list[tuple[str, np.ndarray]]] = {}

    def talk(number: int) -> None:
        found[number] = alone(default_twin.model, prompts[number], SPOKEN)

    threads = [threading.Thread(target=talk, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, expected in enumerate(wanted):
        assert all(map(same, found[number], expected))


def test_replies_take_turns(engine: Engine) -> None:
    order: list[int] = []
    over = threading.Event()

    held = threading.Lock()

    def note(event) -> None:
        with held:
            order.append(event.conversation)
        if isinstance(event.event, TurnDone) and len(set(order)) == 2:
            over.set()

    talks = [engine.open() for _ in range(2)]
    for talk in talks:
        talk.append(Text("Hello"))
    with held:  # both are asked for before either begins
        for talk in talks:
            engine.submit_response(talk.id, SILENT, note)
    assert over.wait(20)
    first, second = (order.index(talk.id) for talk in talks)
    last_of_first = len(order) - 1 - order[::-1].index(talks[0].id)
    assert first < second < last_of_first


def test_errors_are_raised_where_they_were_caused(engine: Engine, tmp_path) -> None:
    talk = engine.open()
    (tmp_path / "empty.wav").touch()
    with pytest.raises(MediaError, match="empty"):
        list(talk.send(Audio(tmp_path / "empty.wav"), options=SILENT))
    with pytest.raises(UsageError, match="message is empty"):
        talk.respond(SILENT)
    with pytest.raises(UsageError, match="no spoken reply"):
        talk.truncate(1.0)
    with pytest.raises(UsageError, match="no voice"):
        talk.send(Text("Hello"), options=ReplyOptions(SpeechOptions(voice="Nobody")))
    assert parts_of(list(talk.send(Text("Hello"), options=SILENT)))[0]


def test_a_receiver_that_fails_loses_its_own_reply_only(engine: Engine, caplog) -> None:
    """Its pipe is closed, or its disk is full."""
    talk, other = engine.open(), engine.open()
    events: list[object] = []

    def broken(event: object) -> None:
        events.append(event)
        raise BrokenPipeError

    engine.call(Append(talk.id, (Text("Hello"),)))
    engine.respond(talk.id, SILENT, broken)
    assert parts_of(list(other.send(Text("Hello"), options=SILENT)))[0]
    assert len(events) == 1 and "the reply is cancelled" in caplog.text
    assert parts_of(list(talk.send(Text("Again"), options=SILENT)))[0]


def test_a_second_reply_waits_for_the_first(engine: Engine) -> None:
    talk = engine.open()
    first = talk.send(Text("Hello"), options=ReplyOptions(SPOKEN.speech, max_tokens=200))
    talk.append(Text("More"))
    with pytest.raises(UsageError) as caught:
        talk.respond(SILENT)
    assert caught.value.code == "reply_in_progress"
    first.cancel()
    *_, done = first
    assert isinstance(done, TurnDone) and done.finish_reason == "interrupted"
    assert isinstance(list(talk.respond(SILENT))[-1], TurnDone)


def test_fork_and_cut(engine: Engine) -> None:
    talk = engine.open()
    events = list(talk.send(Text("Hello"), options=SPOKEN))
    copy = talk.fork()
    left = copy.truncate(0.0)
    assert left == ""
    asked = [list(one.send(Text("And?"), options=SPOKEN)) for one in (talk, copy)]
    model = engine.model
    assert same(parts_of(asked[0]), alone(model, ["Hello", "And?"], SPOKEN)[1])
    assert parts_of(events)[0] and isinstance(asked[1][-1], TurnDone)


def test_closed_means_closed(default_twin: Twin) -> None:
    engine = Engine(default_twin.model)
    talk, other = engine.open(), engine.open()
    talk.close()
    with pytest.raises(UsageError, match="closed"):
        talk.append(Text("Hello"))
    reply = other.send(Text("Hello"), options=ReplyOptions(SPOKEN.speech, max_tokens=500))
    engine.close()
    engine.close()
    assert isinstance(list(reply)[-1], TurnDone)
    with pytest.raises(OmniError, match="engine was closed"):
        other.append(Text("Hello"))
    assert not engine._thread.is_alive()


def test_contexts_of_all_conversations_share_the_budget(default_twin: Twin) -> None:
    full = default_twin.model.budget.footprint
    room = full.needed(0, speech=False) + 2 * full.context(MIN_CONTEXT, speech=False)
    model = Model(default_twin.bundle, SessionOptions(threads=1, memory=room))
    with Engine(model) as engine:
        talks: list[EngineConversation] = [engine.open(context=MIN_CONTEXT) for _ in range(2)]
        with pytest.raises(AdmissionError) as caught:
            engine.open(context=MIN_CONTEXT)
        assert caught.value.code == "out_of_memory"
        talks[0].close()
        engine.open(context=MIN_CONTEXT).close()
        assert parts_of(list(talks[1].send(Text("Hello"), options=SILENT)))[0]


def test_a_command_that_its_caller_gives_up(default_twin: Twin) -> None:
    """The owner thread goes on, whatever becomes of the futures."""
    with Engine(default_twin.model) as engine:
        talk = engine.open()
        futures = [engine.submit(Open(context=64)) for _ in range(50)]
        cancelled = sum(future.cancel() for future in futures)
        assert len([f for f in futures if not f.cancelled() and f.result()]) == 50 - cancelled
        assert len(engine._entries) == 1 + 50 - cancelled
        assert list(talk.send(Text("one"), options=ReplyOptions(None, max_tokens=4)))
