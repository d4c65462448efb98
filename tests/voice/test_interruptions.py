"""Who stops whom, and what is left: a session over an engine that does only what a test says."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from omni_runtime.errors import OmniError, UsageError
from omni_runtime.events import AudioDelta, TextDelta, Timings, TurnDone
from omni_runtime.inputs.audio_stream import AudioStream
from omni_runtime.inputs.messages import Audio, Text
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, SpeechOptions
from omni_runtime.serving.commands import Cancel, Compose, EngineEvent, Failed, Retract
from omni_runtime.voice import pending
from omni_runtime.voice.events import (
    Caption,
    Interrupted,
    ReplyFailed,
    SessionEvent,
    State,
    TurnTaken,
)
from omni_runtime.voice.session import VoiceSession
from omni_runtime.voice.vad import FRAME, SAMPLE_RATE, VoiceActivity

SPOKEN, WRITTEN = ReplyOptions(SpeechOptions()), ReplyOptions(None)
DONE = TurnDone("Hello.", "stop", None, Timings.of_prefill(0.1, 1), 1, 1000, 1, 1)
SOUND = AudioDelta(np.zeros(24_000, np.float32), 24_000, 0.1, 0, 0)


@dataclass
class Puppet:
    """An engine and its only conversation; also the session and what it emits."""

    model: Model
    id: int = 1
    replying: bool = False
    session: VoiceSession = None  # type: ignore[assignment]
    commands: list[Any] = field(default_factory=list)
    sinks: list[Callable[[EngineEvent], object]] = field(default_factory=list)
    options: list[ReplyOptions] = field(default_factory=list)
    events: list[SessionEvent] = field(default_factory=list)
    refusal: BaseException | None = None

    @property
    def engine(self) -> "Puppet":
        return self

    def submit(self, command) -> Future:
        self.commands.append(command)
        done: Future = Future()
        done.set_result(0)
        return done

    def submit_response(self, _number, options, sink) -> Future:
        self.options.append(options)
        self.sinks.append(sink)
        done: Future = Future()
        if self.refusal is None:
            done.set_result(len(self.sinks))
        else:
            done.set_exception(self.refusal)
        return done

    def call(self, command) -> str:
        self.commands.append(command)
        return "heard"

    def interrupt(self, _number) -> None:
        pass

    def close(self) -> None:
        pass

    def make(self, *events) -> None:
        """The engine makes this of the last reply."""
        for event in events:
            self.sinks[-1](EngineEvent(1, len(self.sinks), event))

    def hear(self, seconds: float, *, voice: bool = False) -> None:
        frames = round(seconds * SAMPLE_RATE / FRAME)
        self.session.hear(np.full(frames * FRAME, 0.5 if voice else 0.0, np.float32))

    def speak(self) -> None:
        """The user says something, and pauses until it has been sent."""
        self.hear(1.0, voice=True)
        self.hear(0.6)

    def of(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def message(self) -> list:
        """The message that was composed last."""
        return [list(c.parts) for c in self.commands if isinstance(c, Compose)][-1]


def seconds(part) -> float:
    assert isinstance(part, Audio) and isinstance(part.source, AudioStream)
    return part.source.seconds


@pytest.fixture
def start(trained: Model, monkeypatch) -> Callable[..., Puppet]:
    monkeypatch.setattr(
        VoiceActivity, "probabilities", lambda _, frame: np.array([float(frame.any())])
    )

    def make(**options) -> Puppet:
        puppet = Puppet(trained)
        puppet.session = VoiceSession(
            puppet,  # type: ignore[arg-type]
            puppet.events.append,
            **({"reply": SPOKEN, "read_ahead": False} | options),
        )
        return puppet

    return make


def test_a_turn_goes_on_until_its_reply_is_heard(start) -> None:
    one = start()
    one.speak()
    one.make(TextDelta("Hel", 0.1))
    one.session.add(Text("more"))
    one.hear(1.0, voice=True)
    (cut,) = one.of(Interrupted)
    assert cut.goes_on and one.session.state is State.HEARING
    one.hear(0.6)
    added, sound = one.message
    assert added == Text("more") and 2.5 < seconds(sound) < 3.4, "both parts, and no gap"


def test_a_voice_after_written_text_begins_a_new_turn(start) -> None:
    """Or the sound of the turn, which stays, would be sent twice."""
    one = start(reply=WRITTEN)
    one.speak()
    one.make(TextDelta("Hel", 0.1))
    one.hear(1.0, voice=True)
    (cut,) = one.of(Interrupted)
    assert cut == Interrupted("Hel", "Hel") and Cancel(1) in one.commands
    one.hear(0.6)
    (sound,) = one.message
    assert seconds(sound) < 2.2


def test_what_a_reply_was_asked_for_decides_how_it_is_cut(start) -> None:
    """Not the options of later replies."""
    one = start()
    one.session.add(Text("Hello!"))
    assert one.session.respond(WRITTEN)
    one.session.interrupt()
    assert one.options == [WRITTEN] and Retract(1) in one.commands
    one.session.respond()
    assert one.options == [WRITTEN, SPOKEN], "for one reply only"


@pytest.mark.parametrize("options", [SPOKEN, WRITTEN])
def test_a_question_whose_reply_is_stopped_early_waits(start, options: ReplyOptions) -> None:
    one = start(reply=options)
    one.session.add(Text("Look:"))
    one.speak()
    asked = one.message
    one.session.interrupt()
    assert Retract(1) in one.commands and not one.of(Interrupted)[0].goes_on
    one.session.add(Text("Well?"))
    assert one.session.respond()
    assert one.message == [*asked, Text("Well?")]


@pytest.mark.parametrize("events", [[], [TextDelta("Hel", 0.1)], [SOUND]])
@pytest.mark.parametrize("options", [SPOKEN, WRITTEN])
def test_a_voice_that_may_not_interrupt(start, options: ReplyOptions, events: list) -> None:
    """Neither speech nor text, and neither before nor after it has begun."""
    if options is WRITTEN and SOUND in events:
        return
    one = start(reply=options, interruptible=False)
    one.speak()
    one.make(*events)
    one.hear(1.5, voice=True)
    one.hear(1.0)
    assert not one.of(Interrupted) and len(one.sinks) == 1
    one.make(DONE)
    one.session.played(10.0)
    one.speak()
    assert len(one.sinks) == 2, "afterwards it is heard again"


def test_a_turn_that_is_not_answered_leaves_the_reply_alone(start) -> None:
    one = start(hands_free=False, answers=False)
    one.session.add(Text("Count!"))
    one.session.respond()
    one.session.key(True)
    one.hear(1.0, voice=True)
    one.make(TextDelta("One", 0.1), SOUND)
    assert one.session.state is State.SPEAKING
    one.hear(1.0, voice=True)
    one.session.key(False)
    one.make(DONE)
    assert not one.of(Interrupted) and len(one.of(TurnTaken)) == 1
    assert one.session.state is State.SPEAKING
    one.session.played(10.0)
    assert one.session.state is State.LISTENING
    assert one.session.respond()
    (sound,) = one.message
    assert seconds(sound) == pytest.approx(2.0, abs=0.1)


def test_a_turn_outlasts_the_reply_beside_it(start) -> None:
    one = start(hands_free=False, answers=False)
    one.session.add(Text("Count!"))
    one.session.respond()
    one.session.key(True)
    one.hear(1.0, voice=True)
    one.make(Failed(OmniError("no")))
    assert one.session.state is State.HEARING
    one.session.key(False)
    assert len(one.of(TurnTaken)) == 1


def test_leaving_push_to_talk_lifts_the_key(start) -> None:
    one = start(hands_free=False)
    one.session.key(True)
    one.hear(9.0, voice=True)
    one.session.set_hands_free(True)
    assert not one.session.key_down and one.session.state is State.LISTENING
    one.hear(1.0)
    assert not one.sinks
    one.speak()
    (taken,) = one.of(TurnTaken)
    assert taken.start == pytest.approx(10.0 - one.session.turns.pre_roll, abs=0.1)
    assert 1.0 < seconds(one.message[0]) < 2.2, "begins with its voice, not with what was before"


def test_a_reply_that_fails_at_once_is_reported(start) -> None:
    one = start()
    one.refusal = OmniError("no")
    one.session.say("Hello!")
    assert [event.error for event in one.of(ReplyFailed)] == [one.refusal]
    assert one.session.state is State.LISTENING


def test_a_reply_that_fails_halfway_is_taken_back(start) -> None:
    one = start()
    one.session.say("Hello!")
    one.make(TextDelta("He", 0.1), SOUND, Failed(OmniError("no")))
    assert isinstance(one.commands[-1], Retract)
    assert one.session.state is State.LISTENING


def test_events_of_the_engine_may_come_before_its_answer(start, monkeypatch) -> None:
    one = start()
    submit = one.submit_response

    def quick(*given) -> Future:
        future = submit(*given)
        one.make(TextDelta("Hello.", 0.1))
        return future

    monkeypatch.setattr(one, "submit_response", quick)
    one.session.say("Hello!")
    assert one.of(Caption) == [Caption("Hello.")]


def test_what_waits_is_bounded(start, monkeypatch) -> None:
    one = start(answers=False)
    one.speak()
    one.session.add(Text("x"))
    assert len(one.of(TurnTaken)) == 1
    monkeypatch.setattr(pending, "MAX_BYTES", 2 * 4 * SAMPLE_RATE)
    one.speak()
    assert len(one.of(TurnTaken)) == 1 and len(one.of(ReplyFailed)) == 1
    monkeypatch.setattr(pending, "MAX_PARTS", 2)
    with pytest.raises(UsageError):
        one.session.add(Text("y"))
    one.session.respond()
    assert [type(part) for part in one.message] == [Audio, Text]
