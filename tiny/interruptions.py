"""Interrupts replies by a voice, in real time, at many points.

    python -m tiny.interruptions BUNDLE

Reports how soon the sound stops after the decision, whether the next turn is that of a conversation
with the cut history, and how far the cut is from the word that forced alignment finds.
"""

import argparse
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from omni_runtime.conversation import Conversation
from omni_runtime.events import AudioDelta
from omni_runtime.inputs.messages import Text
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, SpeechOptions
from omni_runtime.serving.engine import Engine
from omni_runtime.voice.events import Interrupted, SessionEvent, Speech, State, StateChanged
from omni_runtime.voice.file_device import FileDevice
from omni_runtime.voice.playback import Playback
from omni_runtime.voice.session import VoiceSession
from omni_runtime.voice.vad import SAMPLE_RATE
from tiny.judges import word_middles, words
from tiny.talk import question

ASKED = ("Count from one to ten.", "Who are you?", "What can you do?", "Count from one to eight.")
NEXT = "What is two plus two?"


@dataclass
class Cut:
    """One interruption; times in seconds."""

    stop: float
    heard: float
    said: int
    spoken: int | None
    same: bool


class _Trial:
    """One reply that a voice interrupts `after` seconds of its sound."""

    def __init__(self, engine: Engine, asked: str, number: int, after: float) -> None:
        self._asked = asked
        self._rate = engine.model.speech.vocoder.sample_rate
        self._playback = Playback(self._rate)
        self._talk = engine.open()
        self._engine = engine
        self._stopped = self._began = self._heard = 0.0
        self._cut: Interrupted | None = None
        voice = question(number)[2]
        recording = np.concatenate([np.zeros(round(after * SAMPLE_RATE), np.float32), voice])
        self._device = FileDevice(recording.astype(np.float32), self._playback)
        self._session = VoiceSession(self._talk, self._event)
        inner = self._session.interrupt

        def timed() -> None:
            if self._session.state is State.SPEAKING and self._cut is None:
                self._began = perf_counter()
                self._heard = self._session._played  # what the cut uses
            inner()

        self._session.interrupt = timed  # type: ignore[method-assign]

    def run(self) -> Cut | None:
        """Return what the voice did, or None if the reply had ended before it."""
        self._session.say(self._asked)
        self._device.run(self._session, lambda *_: None)
        if self._cut is None:
            return None
        heard = self._cut.heard
        talk = self._engine._entries[self._talk.id].conversation  # at rest now
        history = talk.messages[1:3]
        assert history[1].parts == [Text(heard)], history
        while talk.turn_count > 1:
            talk.undo()
        fresh = Conversation(self._engine.model, history=history)
        tokens: list[list[int]] = []
        for one in (talk, fresh):
            list(one.send(NEXT, ReplyOptions(None)))
            tokens.append(one.last_tokens)
        spoken = self._spoken_words()
        return Cut(
            self._stopped - self._began,
            self._heard,
            len(words(heard)),
            spoken,
            tokens[0] == tokens[1] and bool(tokens[0]),
        )

    def _spoken_words(self) -> int | None:
        """Words of the whole reply whose middle lies within what was heard."""
        talk = Conversation(self._engine.model)
        events = list(talk.send(self._asked, ReplyOptions(SpeechOptions())))
        sound = np.concatenate([e.samples for e in events if isinstance(e, AudioDelta)])
        text = "".join(part.text for part in talk.messages[-1].parts if isinstance(part, Text))
        middles = word_middles(sound, text)
        return sum(middle <= self._heard for middle in middles) if middles else None

    def _event(self, event: SessionEvent) -> None:
        match event:
            case StateChanged(State.THINKING):
                self._playback.start()
            case Speech(samples):
                self._playback.add(samples)
            case Interrupted():
                self._playback.clear()
                if self._cut is None:
                    self._cut, self._stopped = event, perf_counter()
            case _:
                pass


def main() -> None:
    """Run all trials and print the report."""
    parser = argparse.ArgumentParser(prog="python -m tiny.interruptions", description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--points", type=int, default=20)
    options = parser.parse_args()
    cuts: list[Cut] = []
    with Engine(Model(options.bundle)) as engine:
        list(engine.open().send(Text("Hello!")))
        for number, after in enumerate(np.linspace(0.3, 2.6, options.points)):
            cut = _Trial(engine, ASKED[number % len(ASKED)], number, float(after)).run()
            print(cut, flush=True)  # noqa: T201
            cuts += [cut] if cut else []
    stops = [1000 * cut.stop for cut in cuts]
    off = [abs(cut.said - cut.spoken) for cut in cuts if cut.spoken is not None]
    print(  # noqa: T201
        f"{len(cuts)} cuts: sound stops {np.median(stops):.1f} ms after the decision "
        f"(at most {max(stops):.1f}); next turn the same {sum(cut.same for cut in cuts)}; "
        f"within one word {sum(x <= 1 for x in off)} of {len(off)}"
    )


if __name__ == "__main__":
    main()
