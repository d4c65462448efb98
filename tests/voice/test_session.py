"""The voice session on a simulated clock: turns, interruptions, pauses, keys, and what is kept."""

from time import sleep

import numpy as np
import pytest

from omni_runtime.conversation import Conversation
from omni_runtime.inputs.audio_stream import AudioStream
from omni_runtime.inputs.messages import Audio, Text
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions
from omni_runtime.serving.engine import Engine
from omni_runtime.voice.engine_side import EngineSide
from omni_runtime.voice.events import (
    Caption,
    Forgotten,
    Interrupted,
    ReplyFailed,
    Speech,
    State,
    StateChanged,
    TurnFigures,
)
from omni_runtime.voice.session import VoiceSession
from omni_runtime.voice.turn_detector import TurnOptions
from omni_runtime.voice.vad import FRAME_SECONDS
from voice.talks import ONE_TURN, RATE, REPLY, silence


def test_three_spoken_turns(start, recording) -> None:
    talk = start()
    names = ("seven_plus_five", "color_of_the_sky", "ten")
    talk.hear(*(piece for name in names for piece in (silence(0.8), recording(name), silence(4))))
    assert talk.states == ONE_TURN * 3 and not talk.of(ReplyFailed)
    assert talk.replies[0] == "Seven plus five is twelve."
    for figures in talk.of(TurnFigures):
        assert figures.voice_to_sound > figures.decided_to_sound > 0
    assert talk.figures[0].turn.timings.cached_tokens > 0, "prefilled while the voice was heard"
    heard = np.concatenate(talk.sound)
    made = np.concatenate([event.samples for event in talk.of(Speech)])
    assert np.abs(heard[np.abs(heard) > 0]).sum() == pytest.approx(np.abs(made).sum(), rel=1e-4)
    roles = [message.role for message in talk.conversation.messages]
    assert roles == ["system"] + ["user", "assistant"] * 3


def sent_turns(monkeypatch) -> list[tuple[int, AudioStream]]:
    """The first sample and the recording of all turns, as they are sent."""
    sent: list[tuple[int, AudioStream]] = []
    respond = VoiceSession._respond

    def spy(self, reply, *given) -> None:
        sent.append((reply.turn.start, reply.parts[-1].source))
        respond(self, reply, *given)

    monkeypatch.setattr(VoiceSession, "_respond", spy)
    return sent


def heard_at_once(
    pieces: list[np.ndarray], sent: list[tuple[int, AudioStream]], model: Model
) -> list[int]:
    """The token ids of a conversation that gets the samples of the only turn at once."""
    ((first, stream),) = sent
    samples = np.concatenate(pieces)[first : first + round(stream.seconds * RATE)]
    plain = Conversation(model)
    list(plain.send([Audio((samples, RATE))], REPLY))
    return plain._context.ids


def test_read_ahead_changes_no_reply(start, recording, trained: Model, monkeypatch) -> None:
    """The reply is that of a conversation which gets the same samples at once."""
    sent = sent_turns(monkeypatch)
    talk = start()
    pieces = [silence(0.8), recording("seven_plus_five"), silence(2)]
    talk.hear(*pieces)
    assert 2.5 < sent[0][1].seconds < 3.2, (
        "pre-roll, voice and pause, not the silence that followed"
    )
    assert heard_at_once(pieces, sent, trained) == talk.conversation._context.ids


def test_a_reply_begins_before_its_turn_is_decided(start, recording) -> None:
    """The pause starts it; nothing of it is seen before the silence is long enough."""
    talk = start(turns=TurnOptions(end_silence=2.0))
    held: list[int] = []

    def look(_: float) -> None:
        reply = talk.session._speculative
        if reply is not None:
            assert talk.states == [State.HEARING] and not talk.of(Caption) and not talk.of(Speech)
            while not reply.held:  # simulated time is faster than the engine
                sleep(0.01)
            held.append(len(reply.held))

    talk.hear(silence(0.8), recording("seven_plus_five"), silence(5), at=look)
    assert held and talk.states == ONE_TURN
    assert talk.replies == ["Seven plus five is twelve."]
    assert "".join(event.text for event in talk.of(Caption)) == talk.replies[0]


def test_a_busy_engine_only_prefills(start, recording, monkeypatch) -> None:
    """A speculative reply would take time from replies that somebody waits for."""
    monkeypatch.setattr(Engine, "replying", property(lambda _: True))
    talk = start()
    talk.hear(
        silence(0.8),
        recording("seven_plus_five"),
        silence(4),
        at=lambda _: None if talk.session._speculative is None else pytest.fail("speculative"),
    )
    (figures,) = talk.figures
    timings = figures.turn.timings
    assert timings.cached_tokens == timings.prompt_tokens - 1, "prefilled before the turn ended"


@pytest.mark.parametrize("delay", [0.4, 0.9, 1.4])
def test_a_voice_cuts_the_reply_to_what_was_heard(start, recording, trained, delay) -> None:
    talk = start()
    talk.session.say("Count from one to ten.")
    talk.hear(silence(delay), recording("seven_plus_five"), silence(3))
    (cut,) = talk.of(Interrupted)
    assert cut.text.startswith(cut.heard) and cut.heard != cut.text
    assert talk.replies[-1] and talk.states[-1] is State.LISTENING
    messages = talk.conversation.messages
    assert messages[2].parts == [Text(cut.heard)], "only what was heard is kept"
    # The next turn is that of a conversation that was never longer.
    tokens = talk.conversation.last_tokens
    fresh = Conversation(trained, history=messages[1:3])
    talk.conversation.undo()
    for one in (fresh, talk.conversation):
        list(one.send("What is two plus two?", ReplyOptions(None, max_tokens=30)))
    assert tokens and fresh.last_tokens == talk.conversation.last_tokens


def test_playback_stops_at_once(start, recording) -> None:
    talk = start()
    talk.session.say("Count from one to ten.")
    talk.hear(silence(0.5), recording("seven_plus_five"), silence(3))
    at = next(
        event.at
        for event, before in zip(talk.events[1:], talk.events, strict=False)
        if isinstance(before, Interrupted) and isinstance(event, StateChanged)
    )
    frame = round(at / FRAME_SECONDS)
    after = talk.sound[frame + 1 : frame + 1 + round(1.0 / FRAME_SECONDS)]
    assert np.abs(np.concatenate(talk.sound[frame - 20 : frame])).max() > 0.01
    assert np.abs(np.concatenate(after)).max() == 0, "within one frame of the decision"


def test_a_backchannel_does_not_interrupt(start, recording) -> None:
    talk = start()
    talk.session.say("Count from one to ten.")
    voice = recording("seven_plus_five")
    loud = int(np.argmax(np.convolve(voice**2, np.ones(2400), "valid")))
    talk.hear(silence(0.6), voice[loud : loud + round(0.15 * RATE)], silence(3))
    assert not talk.of(Interrupted) and talk.replies == [
        "One, two, three, four, five, six, seven, eight, nine, ten."
    ]


def test_a_pause_within_a_sentence(start, recording, trained: Model, monkeypatch) -> None:
    """Up to the user's limit the turn goes on, and the reply to its beginning leaves no trace."""
    sent = sent_turns(monkeypatch)
    spoken = recording("seven_plus_five")
    half = round(1.15 * RATE)
    talk = start(turns=TurnOptions(end_silence=1.0))
    begun: list[object] = []

    def look(_: float) -> None:
        reply = talk.session._speculative
        while reply is not None and not reply.held:
            sleep(0.01)
        begun.append(reply)

    pieces = [silence(0.6), spoken[:half], silence(0.7), spoken[half:], silence(4)]
    talk.hear(*pieces, at=look)
    assert len({id(reply) for reply in begun if reply is not None}) >= 2
    assert talk.states == ONE_TURN and len(talk.replies) == 1
    assert talk.figures[0].heard_seconds > 2.5
    assert heard_at_once(pieces, sent, trained) == talk.conversation._context.ids


def test_half_duplex_is_deaf_while_it_speaks(start, recording) -> None:
    """Its own voice, or anybody's, starts no turn during playback; the key does interrupt."""
    talk = start(full_duplex=False)
    talk.session.say("Count from one to ten.")
    talk.hear(silence(0.4), recording("seven_plus_five")[: 2 * RATE], silence(2))
    assert not talk.of(Interrupted) and len(talk.replies) == 1
    talk.session.say("Count from one to ten.")
    talk.hear(
        silence(3), at=lambda _: talk.session.interrupt() if talk.playback.taken_seconds > 1 else 0
    )
    (cut,) = talk.of(Interrupted)
    assert cut.heard and cut.heard != cut.text


def test_push_to_talk_and_mute(start, recording) -> None:
    talk = start(hands_free=False)
    spoken = recording("seven_plus_five")
    talk.hear(spoken, silence(1))
    assert talk.states == [], "nothing without the key"
    begin = len(talk.sound) * FRAME_SECONDS

    def keys(now: float) -> None:
        talk.session.key(now - begin < 2.6)

    talk.hear(silence(0.2), spoken, silence(3), at=keys)
    assert talk.replies == ["Seven plus five is twelve."]
    muted = start()
    muted.session.muted = True
    muted.hear(silence(0.5), spoken, silence(1))
    assert muted.states == []


def test_an_error_ends_the_turn_and_not_the_session(start, recording, monkeypatch) -> None:
    talk = start()
    with monkeypatch.context() as patch:
        patch.setattr(talk.conversation.model.thinker, "step", lambda *_: 1 / 0)
        talk.session.say("Hello!")
        talk.hear(silence(0.5))
    (failed,) = talk.of(ReplyFailed)
    assert isinstance(failed.error, ZeroDivisionError) and talk.states[-1] is State.LISTENING
    talk.session.say("Hello!")
    talk.hear(silence(2))
    assert len(talk.replies) == 1 and talk.of(Caption)


def test_a_long_talk_keeps_no_recordings(start, recording) -> None:
    talk = start()
    talk.hear(silence(0.5), recording("ten"), silence(3))
    (part,) = talk.conversation.messages[1].parts
    assert part.source == b"", "the caches hold what was heard"


def test_a_talk_outlives_its_context(start, recording) -> None:
    """The oldest turns are forgotten while a reply is played."""
    talk = start(context=200)
    names = ("ten", "seven_plus_five", "color_of_the_sky")
    for n in range(9):
        talk.hear(silence(0.5), recording(names[n % 3]), silence(3))
    talk.session._engine.conversation.append()  # waits for what is queued before
    assert len(talk.replies) == 9 and not talk.of(ReplyFailed)
    forgotten = sum(event.turns for event in talk.of(Forgotten))
    assert forgotten > 2
    assert talk.conversation.turn_count == 9 - forgotten
    assert talk.conversation.context_used < 200


@pytest.mark.parametrize("pre_roll", [0.1, 0.2])
def test_a_block_that_ends_in_silence_waits_for_the_pause(
    start, recording, monkeypatch, pre_roll: float
) -> None:
    """Or the engine would be busy with it when the whole turn can be prefilled."""
    blocks: list[bool] = []
    read_ahead = EngineSide.read_ahead

    def spy(self, parts, *, more: bool = True, **given) -> None:
        if parts and more:
            blocks.append(talk.session._microphone.detector.silent)
        read_ahead(self, parts, more=more, **given)

    monkeypatch.setattr(EngineSide, "read_ahead", spy)
    talk = start(turns=TurnOptions(pre_roll=pre_roll))
    talk.hear(silence(2.0), recording("seven_plus_five"), silence(3))
    assert not any(blocks)
    assert talk.replies == ["Seven plus five is twelve."]


def test_the_start_of_a_turn_is_read_while_the_voice_begins(start, recording) -> None:
    """Also the last reply, which the Talker has not read: a short turn has no other block."""
    talk = start(turns=TurnOptions(pre_roll=0.1))
    talk.hear(silence(0.5), recording("ten"), silence(3), recording("ten"), silence(3))
    timings = talk.figures[1].turn.timings
    assert timings.cached_tokens >= 4, "user, and the begin of the audio"


def test_without_read_ahead(start, recording) -> None:
    talk = start(read_ahead=False)
    talk.hear(silence(0.5), recording("seven_plus_five"), silence(3))
    assert talk.replies == ["Seven plus five is twelve."]
    timings = talk.figures[0].turn.timings
    assert timings.cached_tokens < timings.prompt_tokens / 2, "only the system prompt was read"
