"""Conversations: seeds, interruption, turns, limits, and the order of events."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from conftest import Twin
from omni_runtime.conversation import Conversation
from omni_runtime.engine.sampling import Sampling
from omni_runtime.engine.speed import SynthesisSpeed
from omni_runtime.errors import ContextFullError, UsageError
from omni_runtime.events import (
    AudioDelta,
    Event,
    PlaybackUnderrun,
    PresetChosen,
    TextDelta,
    TurnDone,
)
from omni_runtime.inputs.prompt import Text
from omni_runtime.options import AUTO, ReplyOptions, SpeechOptions

FAST = SpeechOptions(preset="fast", max_codes=60)


def say(conversation: Conversation, prompt: str, options: ReplyOptions) -> list[Event]:
    return list(conversation.send(prompt, options))


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def sound_of(events: list[Event]) -> np.ndarray:
    pieces = [event.samples for event in events if isinstance(event, AudioDelta)]
    return np.concatenate([np.zeros(0, np.float32), *pieces])


def test_same_seed_same_reply(default_twin: Twin) -> None:
    warm = Sampling(temperature=1.0, top_k=20, top_p=0.95)

    def once(seed: int) -> list[Event]:
        options = ReplyOptions(FAST, warm, max_tokens=30, seed=seed)
        return say(Conversation(default_twin.model), "Hello", options)

    first, again, other = once(1), once(1), once(2)
    assert text_of(first) == text_of(again) != text_of(other)
    assert np.array_equal(sound_of(first), sound_of(again))


def test_speech_never_changes_the_text(twin: Twin) -> None:
    warm = Sampling(temperature=1.0)
    spoken = say(Conversation(twin.model), "Hello", ReplyOptions(FAST, warm, 24))
    silent = say(Conversation(twin.model), "Hello", ReplyOptions(None, warm, 24))
    assert text_of(spoken) == text_of(silent)
    assert not any(isinstance(event, AudioDelta) for event in silent)


def test_audio_starts_before_the_last_token(default_twin: Twin) -> None:
    options = ReplyOptions(SpeechOptions(preset="fast", max_codes=400), max_tokens=60)
    events = say(Conversation(default_twin.model), "Tell me everything", options)
    kinds = [type(event) for event in events]
    last_text = len(kinds) - 1 - kinds[::-1].index(TextDelta)
    assert kinds.index(AudioDelta) < last_text
    done = events[-1]
    assert isinstance(done, TurnDone)
    timings = done.timings
    assert timings.first_text is not None
    assert timings.last_text is not None
    assert timings.first_audio is not None
    assert timings.first_text < timings.first_audio < timings.last_text
    assert timings.speech == pytest.approx(len(sound_of(events)) / 24000)
    assert timings.codes * 480 == len(sound_of(events))


@pytest.mark.parametrize("stop_after", [1, 5, 12])
def test_an_interrupted_reply_leaves_a_valid_conversation(twin: Twin, stop_after: int) -> None:
    """After an interruption the next turn is the same as if the reply had ended there."""
    options = ReplyOptions(FAST, max_tokens=30)
    stopped = Conversation(twin.model)
    reply = stopped.send("Hello", options)
    heard = [next(reply) for _ in range(stop_after)]
    reply.close()
    tokens = stopped.last_tokens
    assert stopped.messages[-1].role == "assistant"
    assert stopped.messages[-1].parts == [Text(text_of(heard))]

    ended = Conversation(twin.model)
    say(ended, "Hello", ReplyOptions(FAST, max_tokens=len(tokens)))
    assert ended.last_tokens == tokens
    assert stopped.context_used == ended.context_used
    after_stop, after_end = (say(c, "And then?", options) for c in (stopped, ended))
    assert text_of(after_stop) == text_of(after_end)
    assert np.array_equal(sound_of(after_stop), sound_of(after_end))


def test_speech_can_be_enabled_later(twin: Twin) -> None:
    """The Talker prefills turns without speech when speech is enabled again."""
    silent, spoken = ReplyOptions(None, max_tokens=8), ReplyOptions(FAST, max_tokens=8)
    late, early = Conversation(twin.model), Conversation(twin.model)
    say(late, "Hello", silent)
    say(early, "Hello", spoken)
    wanted = sound_of(say(early, "Again", spoken))
    assert np.allclose(sound_of(say(late, "Again", spoken)), wanted, atol=1e-4)


@pytest.mark.parametrize("first", [None, FAST])
def test_undo(twin: Twin, first: SpeechOptions | None) -> None:
    conversation = Conversation(twin.model)
    say(conversation, "Hello", ReplyOptions(first, max_tokens=6))
    used, messages = conversation.context_used, len(conversation.messages)
    wanted = say(conversation, "More", ReplyOptions(FAST, max_tokens=6))
    conversation.undo()
    assert (conversation.context_used, len(conversation.messages)) == (used, messages)
    again = say(conversation, "More", ReplyOptions(FAST, max_tokens=6))
    assert text_of(again) == text_of(wanted)
    assert np.allclose(sound_of(again), sound_of(wanted), atol=1e-4)
    conversation.undo()
    conversation.undo()
    assert conversation.context_used == 0
    with pytest.raises(UsageError, match="no turn"):
        conversation.undo()


def test_a_prompt_that_does_not_fit_changes_nothing(default_twin: Twin) -> None:
    conversation = Conversation(default_twin.model, context=150)
    say(conversation, "Hello", ReplyOptions(None, max_tokens=4))
    used = conversation.context_used
    with pytest.raises(ContextFullError, match=f"{used} of 150 tokens are in use"):
        say(conversation, "word " * 200, ReplyOptions(None))
    assert conversation.context_used == used
    assert text_of(say(conversation, "Still there?", ReplyOptions(None, max_tokens=4)))


def test_a_full_context_ends_the_reply(default_twin: Twin) -> None:
    conversation = Conversation(default_twin.model, context=130)
    done = say(conversation, "Hello", ReplyOptions(FAST, max_tokens=500))[-1]
    assert isinstance(done, TurnDone)
    assert done.finish_reason == "context"
    assert done.context_used == 130


def test_kv_caches_are_limited_by_the_context(default_twin: Twin) -> None:
    conversation = Conversation(default_twin.model, context=600)
    sizes: list[int] = []
    with pytest.raises(ContextFullError):
        for _ in range(100):
            say(conversation, "Hello again", ReplyOptions(FAST, max_tokens=20))
            sizes.append(conversation.cache_bytes)
    assert max(sizes) <= 2 * sizes[0]


def test_a_failing_turn_is_undone(default_twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = Conversation(default_twin.model)
    say(conversation, "Hello", ReplyOptions(FAST, max_tokens=4))
    used, messages = conversation.context_used, len(conversation.messages)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(default_twin.model.talker, "append", fail)
        with pytest.raises(KeyboardInterrupt):
            say(conversation, "More", ReplyOptions(FAST))
    assert (conversation.context_used, len(conversation.messages)) == (used, messages)
    assert text_of(say(conversation, "More", ReplyOptions(FAST, max_tokens=4)))


def test_codes_outside_the_dit_table_are_never_sampled(
    make_twin: Callable[[str], Twin], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Untrained weights may favor any code; only codes of the DiT's table are sampled."""
    talker = make_twin("default").model.talker
    config = talker.config
    logits = np.zeros(config.decoder.vocab_size, np.float32)
    random = np.random.default_rng(0)
    from omni_runtime.engine.sampling import sample, suppress  # noqa: PLC0415

    drawn = {
        sample(suppress(logits, talker._banned), Sampling(1.0), [], random) for _ in range(2000)
    }
    assert config.codec_bos not in drawn
    assert set(config.codec_eos) <= drawn
    assert max(drawn - set(config.codec_eos)) < make_twin("default").model.speech.dit.codes


LIVE = SpeechOptions(preset="fast", max_codes=120, chunks="adaptive")


def test_an_underrun_is_reported_once(default_twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock advances by one second per call."""
    ticks = count()
    monkeypatch.setattr("omni_runtime.reply.perf_counter", lambda: float(next(ticks)))
    events = say(Conversation(default_twin.model), "Hello", ReplyOptions(LIVE, max_tokens=8))
    (slow,) = (event for event in events if isinstance(event, PlaybackUnderrun))
    assert 0 < slow.realtime < slow.codes < 0.1
    assert (slow.preset, slow.faster) == ("fast", ())
    before = events[: events.index(slow)]
    assert sum(isinstance(event, AudioDelta) for event in before) == 2, "after the first pause"
    steady = ReplyOptions(replace(LIVE, chunks="fixed"), max_tokens=8)
    quiet = say(Conversation(default_twin.model), "Hello", steady)
    assert not any(isinstance(event, PlaybackUnderrun) for event in quiet)


def test_time_of_the_caller_is_not_counted(
    default_twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that plays each chunk before the next one does not cause underruns."""
    now = 0.0
    monkeypatch.setattr("omni_runtime.reply.perf_counter", lambda: now)
    pieces: list[int] = []
    for event in Conversation(default_twin.model).send("Hello", ReplyOptions(LIVE, max_tokens=8)):
        assert not isinstance(event, PlaybackUnderrun)
        if isinstance(event, AudioDelta):
            pieces.append(len(event.samples) // 480)
        now += 100.0
        if isinstance(event, TurnDone):
            assert event.timings.total == 0.0, "nothing but the caller took time"
    assert len(pieces) > 2 and pieces[:-1] == [12, 24, 48][: len(pieces) - 1]


def test_whole_speech_is_one_chunk(default_twin: Twin) -> None:
    whole = ReplyOptions(replace(LIVE, chunks="whole"), max_tokens=8)
    events = say(Conversation(default_twin.model), "Hello", whole)
    assert sum(isinstance(event, AudioDelta) for event in events) == 1
    assert isinstance(events[-1], TurnDone) and events[-1].timings.codes > 48


@pytest.mark.parametrize(("evaluation", "wanted"), [(0.001, "faithful"), (0.02, "balanced")])
def test_auto_equals_the_preset_it_selects(
    default_twin: Twin, monkeypatch: pytest.MonkeyPatch, evaluation: float, wanted: str
) -> None:
    model = default_twin.model
    speed = SynthesisSpeed(codes=0.1, evaluation=evaluation, vocoder=0.1)
    monkeypatch.setitem(model.__dict__, "synthesis_speed", speed)
    auto, named = (
        say(Conversation(model), "Hello", ReplyOptions(replace(FAST, preset=name), max_tokens=4))
        for name in (AUTO, wanted)
    )
    (chosen,) = (event for event in auto if isinstance(event, PresetChosen))
    assert chosen.preset == wanted
    assert chosen.realtime == {n: speed.realtime(p) for n, p in model.nfe.items()}
    assert np.array_equal(sound_of(auto), sound_of(named))
    assert not any(isinstance(event, PresetChosen) for event in named)


def test_unknown_chunk_policy(default_twin: Twin) -> None:
    options = ReplyOptions(SpeechOptions(chunks="hasty"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="there is no chunk policy 'hasty'"):
        Conversation(default_twin.model).send("Hello", options)
