"""`truncate`: the estimated last word that was heard, and the remaining conversation."""

from pathlib import Path

import numpy as np
import pytest
from tiny.judges import word_middles, words

from conftest import Twin
from omni_runtime.conversation import Conversation
from omni_runtime.errors import UsageError
from omni_runtime.events import AudioDelta, TextDelta, TurnDone
from omni_runtime.inputs.messages import Message, Text
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, SpeechOptions
from omni_runtime.timeline import SpeechTimeline, SpokenReply, typical_seconds, word_ends

QUESTIONS = (
    "Introduce yourself.", "Which color is the grass?", "How much is three plus four?",
    "Name the opposite of big.", "Count from one to six.", "What can I ask you?",
    "Which number comes before nine?", "Which is larger, two or eight?", "Hello there!",
    "What are you good at?", "Can you count to eight?", "Subtract two from nine.",
    "How many sides has a triangle?", "What is the color of snow?", "Add six and three.",
)  # fmt: skip
"""None of these questions was used to fit the typical word durations."""


@pytest.fixture(scope="module")
def trained(trained_bundle: Path) -> Model:
    return Model(trained_bundle)


def test_words_of_any_script() -> None:
    assert word_ends("Seven plus five. ") == [6, 11, 17]
    assert word_ends("你好 Omni") == [1, 2, 3, 7]
    assert word_ends("") == []
    assert typical_seconds("model") < typical_seconds("model,") < typical_seconds("a model")
    assert typical_seconds("12") > typical_seconds("is") and typical_seconds("你好") > 0.4
    assert typical_seconds("") == typical_seconds(" \n") == 0


def test_silence_is_not_speech() -> None:
    voice = np.random.default_rng(0).normal(0, 0.1, 24_000).astype(np.float32)
    samples = np.concatenate([voice, np.zeros(24_000, np.float32), voice])
    line, pieces = SpeechTimeline(24_000), SpeechTimeline(24_000)
    line.add(samples)
    for start in range(0, len(samples), 1111):
        pieces.add(samples[start : start + 1111])
    assert line.samples == pieces.samples == 72_000
    for until, wanted in ((0.5, 0.5), (1.5, 1.0), (2.5, 1.5), (None, 2.0)):
        assert line.voiced_seconds(until) == pytest.approx(wanted, abs=0.02)
        assert pieces.voiced_seconds(until) == pytest.approx(wanted, abs=0.02)
    text = "one two three four five six"
    heard = [line.heard(text, second, line.speed(text)) for second in (0, 1, 1.9, 3)]
    assert heard == [0, 14, 14, len(text)]


def test_tokens_of_the_heard_text() -> None:
    line = SpeechTimeline(24_000)
    line.add(np.full(48_000, 0.1, np.float32))
    reply = SpokenReply("one two three four", (3, 3, 7, 9, 13, 18), line, True, "Ada")
    counts = [reply.heard_tokens(second, 1.0) for second in (0.0, 0.2, 0.5, 0.9, 1.4, 2.0)]
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == 6
    assert set(counts) <= {0, 1, 3, 5, 6}, "only whole words"
    assert reply.cut(3).text == "one two" and reply.cut(0).text == ""


def spoken(
    talk: Conversation, question: str, seconds: float | None = None, **options: int
) -> tuple[str, np.ndarray]:
    """Return the text and speech of a reply, interrupted after `seconds` of speech."""
    pieces, text = [np.zeros(0, np.float32)], ""
    for event in talk.send(question, ReplyOptions(SpeechOptions(), **options)):
        match event:
            case TextDelta(delta):
                text += delta
            case AudioDelta():
                assert event.first_sample == sum(map(len, pieces))
                assert 0 < event.text_position <= len(text)
                pieces.append(event.samples)
                if seconds is not None and sum(map(len, pieces)) >= seconds * event.rate:
                    break
            case _:
                assert isinstance(event, TurnDone)
    return text, np.concatenate(pieces)


@pytest.mark.slow
def test_cut_position_against_forced_alignment(trained: Model) -> None:
    """90 % of cuts are within one word, for complete and interrupted replies."""
    errors: dict[bool, list[int]] = {True: [], False: []}  # by whether the speech is complete
    for question in QUESTIONS:
        talk = Conversation(trained)
        text, samples = spoken(talk, question)
        middles, reply = word_middles(samples, text), talk._spoken
        assert reply is not None and reply.complete
        if not middles:
            continue
        for complete, found in errors.items():
            for second in np.arange(0.2, len(samples) / 24_000, 0.2):
                line = reply.timeline
                if not complete:  # a second more was made than was heard
                    line = SpeechTimeline(24_000)
                    line.add(samples[: round((second + 1) * 24_000)])
                cut = SpokenReply(text, reply.text_ends, line, complete, reply.voice)
                count = cut.heard_tokens(second, 1.25)
                said = len(words(cut.cut(count).text))
                found.append(said - sum(middle <= second for middle in middles))
    for complete, found in errors.items():
        share = np.mean(np.abs(found) <= 1)
        assert len(found) > 60 and share >= 0.9, (complete, share)


@pytest.mark.parametrize("seconds, all_heard", [(None, (0.0, 1.1)), (0.7, (0.6, 2.0))])
def test_a_truncated_conversation_equals_a_shorter_one(
    trained: Model, seconds: float | None, all_heard: tuple[float, float]
) -> None:
    """It has the tokens and the speech of a conversation with the truncated history."""
    for heard in all_heard:
        talk = Conversation(trained)
        spoken(talk, "Hello!")
        text, _ = spoken(talk, "Count from one to ten.", seconds)
        left = talk.truncate(heard)
        assert text.startswith(left) and left != text and talk.messages[-1].parts == [Text(left)]
        assert bool(left) == (heard > 0)
        fresh = Conversation(trained, history=talk.messages[1:])
        for question in ("What is two plus two?", "And plus three?"):
            found, wanted = spoken(talk, question), spoken(fresh, question)
            assert talk.last_tokens == fresh.last_tokens and found[0] == wanted[0]
            assert found[1].shape == wanted[1].shape
        assert talk._context.ids == fresh._context.ids


def test_a_reply_heard_to_its_end_is_not_truncated(trained: Model) -> None:
    talk = Conversation(trained)
    text, samples = spoken(talk, "Who are you?")
    used = talk.context_used
    assert talk.truncate(len(samples) / 24_000) == text and talk.context_used == used
    assert talk.truncate(0.5) != text and talk.context_used < used
    talk.undo()
    with pytest.raises(UsageError, match="no spoken reply"):
        talk.truncate(1.0)


def test_cuts_of_random_models(twin: Twin) -> None:
    """Random tokens: incomplete characters, and replies without words."""
    for heard in (0.0, 0.1, 0.3, 5.0):
        talk = Conversation(twin.model)
        options = ReplyOptions(SpeechOptions(preset="fast", max_codes=60), max_tokens=24)
        list(talk.send("Hello", options))
        left = talk.truncate(heard)
        assert talk.messages[-1] == Message("assistant", [Text(left)])
        assert talk.context_used == talk._turns[-1].asked.context.length + len(talk.last_tokens)
        twin_talk = Conversation(twin.model)
        count = len(talk.last_tokens)
        list(twin_talk.send("Hello", ReplyOptions(options.speech, max_tokens=max(count, 1))))
        if count:
            assert twin_talk.last_tokens == talk.last_tokens
            both = [list(one.send("And?", options))[-1] for one in (talk, twin_talk)]
            assert both[0].text == both[1].text  # type: ignore[union-attr]
