"""A reply in progress: allowed operations, and cancellation from any thread."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import Twin
from omni_runtime.context import Context
from omni_runtime.conversation import Conversation
from omni_runtime.engine.chunk_scheduler import FIRST_LOOK_AHEAD_CODES
from omni_runtime.engine.session import Graph
from omni_runtime.engine.thinker import ThinkerOutput
from omni_runtime.errors import UsageError
from omni_runtime.events import AudioDelta, Event, TextDelta, TurnDone
from omni_runtime.inputs.messages import Message, Text
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, SpeechOptions

SPOKEN = ReplyOptions(SpeechOptions(preset="fast", max_codes=80), max_tokens=24)
SILENT = ReplyOptions(None, max_tokens=24)


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def sound_of(events: list[Event]) -> np.ndarray:
    pieces = [event.samples for event in events if isinstance(event, AudioDelta)]
    return np.concatenate([np.zeros(0, np.float32), *pieces])


def consistent(talk: Conversation) -> None:
    context = talk._context
    read = context.talker.length if context.talker else 0
    assert read + len(context.unread) == context.thinker.length
    assert context.thinker.length + len(context.pending) == context.length == talk.context_used
    assert len(talk.messages) == 1 + 2 * len(talk._turns)


ACTIONS: dict[str, Callable[[Conversation, Path], object]] = {
    "send": lambda talk, _: next(talk.send("More", SILENT)),
    "regenerate": lambda talk, _: next(talk.regenerate(SILENT)),
    "undo": lambda talk, _: talk.undo(),
    "save": lambda talk, folder: talk.save(folder / "talk"),
    "read_ahead": lambda talk, _: talk.read_ahead([Text("More")]),
    "fork": lambda talk, _: talk.fork(),
}


@pytest.mark.parametrize("name", list(ACTIONS))
def test_a_reply_in_progress_rejects_other_operations(
    default_twin: Twin, tmp_path: Path, name: str
) -> None:
    talk, plain = Conversation(default_twin.model), Conversation(default_twin.model)
    wanted = [list(plain.send(prompt, SPOKEN)) for prompt in ("Hello", "Again")]
    list(talk.send("Hello", SPOKEN))
    reply = talk.send("Again", SPOKEN)
    first = [next(reply) for _ in range(3)]
    with pytest.raises(UsageError, match="in progress") as caught:
        ACTIONS[name](talk, tmp_path)
    assert caught.value.code == "reply_in_progress"
    found = [*first, *reply]
    assert text_of(found) == text_of(wanted[1])
    assert np.array_equal(sound_of(found), sound_of(wanted[1]))
    consistent(talk)


def test_replies_start_with_their_first_event(default_twin: Twin) -> None:
    """A reply starts when its first event is requested, in the order of these requests."""
    talk = Conversation(default_twin.model)
    one, two = talk.send("One", SILENT), talk.send("Two", SILENT)
    next(one)
    with pytest.raises(UsageError, match="in progress"):
        next(two)
    list(one)
    again = talk.regenerate(SILENT)
    talk.undo()
    with pytest.raises(UsageError, match="no reply"):
        next(again)
    assert list(two) == [], "it failed before, and is over"
    consistent(talk)
    talk.send("Never", SILENT).close()
    assert len(talk.messages) == 1


def test_a_regenerated_reply_that_never_begins_keeps_the_question(
    default_twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Conversation(default_twin.model)
    for prompt in ("One", "Two"):
        list(talk.send(prompt, SILENT))
    again = talk.regenerate(SPOKEN)

    def stop(context: Context) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Context, "reread_last", stop)
        list(again)
    assert [message.parts for message in talk.messages[-2:]] == [[Text("Two")], [Text("")]]
    assert talk.turn_count == 2 and talk.last_tokens == []
    consistent(talk)
    fresh = Conversation(default_twin.model)
    for prompt in ("One", "Two"):
        wanted = list(fresh.send(prompt, SILENT))
    assert text_of(list(talk.regenerate(SILENT))) == text_of(wanted)
    consistent(talk)


def test_a_deleted_reply_is_closed(default_twin: Twin) -> None:
    talk = Conversation(default_twin.model)
    for event in talk.send("Hello", SPOKEN):
        if isinstance(event, TextDelta):
            break
    assert talk.messages[-1].parts == [Text(event.text)]
    consistent(talk)
    assert isinstance(list(talk.send("And?", SPOKEN))[-1], TurnDone)


def test_an_old_reply_cannot_change_a_new_turn(default_twin: Twin) -> None:
    talk = Conversation(default_twin.model)
    old = talk.send("Hello", SPOKEN)
    next(old)
    talk.cancel()
    new = list(talk.send("Again", SPOKEN))
    used, messages = talk.context_used, len(talk.messages)
    old.close()
    assert list(old) == []
    assert (talk.context_used, len(talk.messages)) == (used, messages)
    assert talk.messages[-1].parts == [Text(text_of(new))]


def test_text_is_emitted_before_the_next_decode_step(
    default_twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Conversation(default_twin.model)
    talk.read_ahead()
    thinker, reply = default_twin.model.thinker, talk.send("Hello", SILENT)
    steps: list[int] = []
    step = thinker.step
    monkeypatch.setattr(thinker, "step", lambda *given: (steps.append(1), step(*given))[1])
    assert isinstance(next(reply), TextDelta)
    reply.close()
    assert len(steps) == len(talk.last_tokens) - 1
    assert len(talk._context.pending) == 1, "said, and read with the next prompt"
    consistent(talk)
    ended = Conversation(default_twin.model)
    list(ended.send("Hello", ReplyOptions(None, max_tokens=len(talk.last_tokens))))
    assert talk.last_tokens == ended.last_tokens
    both = [list(one.send("And?", SPOKEN)) for one in (talk, ended)]
    assert text_of(both[0]) == text_of(both[1])
    assert np.allclose(sound_of(both[0]), sound_of(both[1]), atol=1e-4)


def test_the_first_sound_needs_a_token_per_code(
    default_twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each code needs the row of its token and no later one: 12 codes and 3 of look-ahead."""
    forwards = 0
    forward = Context.forward

    def counted(context: Context) -> ThinkerOutput:
        nonlocal forwards
        forwards += 1
        return forward(context)

    monkeypatch.setattr(Context, "forward", counted)
    reply = Conversation(default_twin.model).send(
        "Hello", ReplyOptions(SpeechOptions(chunks="adaptive"), text="one two three four " * 10)
    )
    while not isinstance(event := next(reply), AudioDelta):
        assert not isinstance(event, TurnDone)
    assert forwards == 12 + FIRST_LOOK_AHEAD_CODES == 15


def test_a_pending_token_survives_a_save(default_twin: Twin, tmp_path: Path) -> None:
    talk = Conversation(default_twin.model)
    reply = talk.send("Hello", SPOKEN)
    next(reply)
    reply.close()
    talk.save(tmp_path / "talk")
    loaded = Conversation.load(tmp_path / "talk", default_twin.model)
    assert loaded.context_used == talk.context_used
    assert text_of(list(loaded.send("And?", SPOKEN))) == text_of(list(talk.send("And?", SPOKEN)))


PHASES = {"prefill": "thinker", "decode": "thinker", "talker": "talker", "dit": "dit",
          "vocoder": "vocoder"}  # fmt: skip


@pytest.mark.parametrize("phase", list(PHASES))
def test_cancel_from_another_thread(
    default_twin: Twin, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """Cancel inside each graph; the conversation keeps the reply up to that point."""
    model = Model(default_twin.bundle, default_twin.model.options)
    talk = Conversation(model)
    talk.read_ahead()
    list(talk.send("Hello", SPOKEN))
    before = (talk.context_used, len(talk.messages))
    running, cancelled = threading.Event(), threading.Event()
    graphs = {"thinker": model.thinker._decoder._graph, "talker": model.talker._decoder._graph,
              "dit": model._dit_graph, "vocoder": model.vocoder._graph}  # fmt: skip
    seen: list[Event] = []

    def hold(graph: Graph) -> None:
        text = bool(text_of(seen))
        wanted = graph is graphs[PHASES[phase]] and (text or phase == "prefill")
        if wanted and not running.is_set():
            running.set()
            assert cancelled.wait(20)

    for name in ("run", "run_with_iobinding"):
        real = getattr(Graph, name)
        monkeypatch.setattr(
            Graph, name, lambda graph, feeds, real=real: (hold(graph), real(graph, feeds))[1]
        )

    def cancel() -> None:
        running.wait(20)
        response.interrupt()
        cancelled.set()
        talk.cancel()

    response = talk.send("Tell me more " * 20, SPOKEN)
    thread = threading.Thread(target=cancel)
    thread.start()
    for event in response:
        seen.append(event)
    thread.join()
    done = seen[-1]
    assert running.is_set() and isinstance(done, TurnDone)
    assert done.finish_reason == "interrupted" and done.text == text_of(seen)
    consistent(talk)
    if phase == "prefill":
        assert (talk.context_used, len(talk.messages)) == before and not done.text
    else:
        assert talk.messages[-1] == Message("assistant", [Text(done.text)])
    monkeypatch.undo()
    wanted = Conversation(model)
    list(wanted.send("Hello", SPOKEN))
    if phase != "prefill":
        count = len(talk.last_tokens)
        list(wanted.send("Tell me more " * 20, ReplyOptions(SPOKEN.speech, max_tokens=count)))
        assert wanted.last_tokens == talk.last_tokens
    assert text_of(list(talk.send("And?", SPOKEN))) == text_of(list(wanted.send("And?", SPOKEN)))


def test_a_fork_is_independent(twin: Twin) -> None:
    talk = Conversation(twin.model)
    list(talk.send("Hello", SPOKEN))
    copy = talk.fork()
    one, other = list(talk.send("And?", SPOKEN)), list(copy.send("And?", SPOKEN))
    assert text_of(one) == text_of(other) and np.allclose(sound_of(one), sound_of(other), atol=1e-4)
    copy.undo()
    list(copy.send("Something else", SPOKEN))
    assert talk.messages != copy.messages
    consistent(talk)
    consistent(copy)


def test_a_closed_conversation_raises(default_twin: Twin) -> None:
    talk = Conversation(default_twin.model)
    reply = talk.send("Hello", SPOKEN)
    next(reply)
    talk.close()
    assert isinstance(list(reply)[-1], TurnDone)
    with pytest.raises(UsageError, match="closed"):
        next(talk.send("Hello", SPOKEN))


def test_the_system_prompt_is_prefilled_once(
    default_twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(default_twin.bundle, default_twin.model.options)
    lengths: list[int] = []
    prefill = model.thinker.prefill_steps
    monkeypatch.setattr(
        model.thinker,
        "prefill_steps",
        lambda cache, prompt: (lengths.append(len(prompt.ids)), prefill(cache, prompt))[1],
    )
    wanted = list(Conversation(default_twin.model).send("Hello", SPOKEN))
    replies = [list(Conversation(model).send("Hello", SPOKEN)) for _ in range(3)]
    prefix, *rest = lengths
    assert rest == [rest[0]] * 3 and prefix > 20 and rest[0] < 20
    for reply in replies:
        assert text_of(reply) == text_of(wanted)
        assert np.allclose(sound_of(reply), sound_of(wanted), atol=1e-4)
        done = reply[-1]
        assert isinstance(done, TurnDone)
        assert done.timings.cached_tokens == prefix
        assert done.timings.prompt_tokens == prefix + rest[0]
    other = Conversation(model, system="Be brief.")
    assert text_of(list(other.send("Hello", SPOKEN))) and len(lengths) == 6


def test_a_penalty_counts_the_prompt_like_transformers(twin: Twin) -> None:
    """RepetitionPenaltyLogitsProcessor counts all ids of the prompt, including earlier turns."""
    import torch  # noqa: PLC0415
    from transformers import RepetitionPenaltyLogitsProcessor  # noqa: PLC0415

    from omni_runtime.engine.sampling import Sampling  # noqa: PLC0415

    talk = Conversation(twin.model)
    options = ReplyOptions(None, Sampling(repetition_penalty=1.7), max_tokens=12)
    list(talk.send("Hello hello hello", SILENT))
    list(talk.send("Once more hello", options))
    asked = talk._turns[-1].asked.context.length
    processor = RepetitionPenaltyLogitsProcessor(1.7)
    replay = talk.fork()
    replay.regenerate(ReplyOptions(None, max_tokens=1)).close()
    context = replay._context
    context.truncate(talk._turns[-1].asked.context)
    logits = context.reread_last().logits
    for token in talk.last_tokens:
        scores = processor(torch.tensor([context.ids]), torch.from_numpy(logits.copy())[None])
        assert int(scores[0].argmax()) == token
        context.push(token)
        logits = context.forward().logits
    assert context.length == asked + len(talk.last_tokens)
