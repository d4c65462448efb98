"""A simulated room: what a microphone hears of a loudspeaker, and a talk with itself in it.

    python -m tiny.room BUNDLE --minutes 10

Counts the turns that an echo starts: there must be none.
"""

import argparse
from collections import Counter
from time import sleep

import numpy as np
import soxr

from omni_runtime.arrays import FloatArray
from omni_runtime.model import Model
from omni_runtime.serving.engine import Engine
from omni_runtime.voice.echo import EchoCanceller
from omni_runtime.voice.events import (
    Interrupted,
    SessionEvent,
    Speech,
    State,
    StateChanged,
    TurnFigures,
)
from omni_runtime.voice.playback import Playback
from omni_runtime.voice.session import VoiceSession
from omni_runtime.voice.vad import FRAME_SECONDS, SAMPLE_RATE

TAIL = 3200
ASKED = ("Count from one to ten.", "Who are you?", "What can you do?")
PAUSE = 1.5
"""Seconds of silence between two replies: an echo that starts a turn then would be noticed."""


class Room:
    """A loudspeaker that distorts, a delay, reverberation of 0.2 s, and some noise; 16 kHz."""

    def __init__(self, delay: float) -> None:
        """`delay` in seconds, of both devices and the air."""
        self._random = np.random.default_rng(0)
        tail = np.exp(-np.arange(TAIL) / 500) * self._random.normal(0, 1, TAIL)
        tail[0] = 3.0
        self._response = tail / np.abs(tail).sum() * 2
        self._pending = np.zeros(round(delay * SAMPLE_RATE))
        self._delay = len(self._pending)

    def hear(self, samples: FloatArray) -> FloatArray:
        """What the microphone hears while `samples` are played, float32 (n,)."""
        if not len(samples):
            return samples
        echo = np.convolve(np.tanh(1.5 * samples) / 1.5, self._response)
        needed = self._delay + len(echo)
        self._pending = np.pad(self._pending, (0, max(0, needed - len(self._pending))))
        self._pending[self._delay : needed] += echo
        heard, self._pending = np.split(self._pending, [len(samples)])
        return (heard + self._random.normal(0, 0.0005, len(heard))).astype(np.float32)


class Monologue:
    """A session that answers typed questions aloud in a room where nobody else speaks."""

    def __init__(
        self, engine: Engine, questions: list[str], *, delay: float, cancel_echo: bool
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._questions = questions
        self._room = Room(delay)
        self._canceller = EchoCanceller.load() if cancel_echo else None
        rate = engine.model.speech.vocoder.sample_rate
        self._playback = Playback(rate)
        self._frame = round(FRAME_SECONDS * rate)
        self._to_16k = soxr.ResampleStream(rate, SAMPLE_RATE, 1, quality="HQ")
        self._done = True
        self._session = VoiceSession(engine.open(), self._event, full_duplex=cancel_echo)

    def run(self, seconds: float) -> Counter[str]:
        """Talk for `seconds` of simulated time; returns how often what happened."""
        idle = PAUSE
        for _ in range(round(seconds / FRAME_SECONDS)):
            listening = self._session.state is State.LISTENING
            idle = idle + FRAME_SECONDS if listening else 0.0
            if idle > PAUSE:
                self._session.say(self._questions[self.counts["replies"] % len(self._questions)])
                self.counts["replies"] += 1
            while self._stalled():
                sleep(0.002)
            played = self._playback.take(self._frame)
            reference = np.asarray(self._to_16k.resample_chunk(played), np.float32)
            heard = self._room.hear(reference)
            if self._canceller is not None:
                heard = self._canceller.process(heard, reference)
            self._session.hear(heard)
            self._session.played(self._playback.taken_seconds)
        self._session.close()
        return self.counts

    def _stalled(self) -> bool:
        state = self._session.state
        dry = self._playback.buffered_seconds < 2 * FRAME_SECONDS
        return state is State.THINKING or (state is State.SPEAKING and dry and not self._done)

    def _event(self, event: SessionEvent) -> None:
        match event:
            case StateChanged(State.THINKING):
                self._playback.start()
                self._done = False
            case StateChanged(State.HEARING):
                self.counts["turns that an echo started"] += 1
            case Speech(samples, rate):
                self._playback.add(samples)
                self.counts["ms of speech"] += 1000 * len(samples) // rate
            case Interrupted():
                self._playback.clear()
                self.counts["interrupted"] += 1
                self._done = True
            case TurnFigures():
                self._done = True
            case _:
                pass


def main() -> None:
    """Talk for some minutes with each delay, with echo cancellation and half duplex."""
    parser = argparse.ArgumentParser(prog="python -m tiny.room", description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--minutes", type=float, default=10)
    options = parser.parse_args()
    with Engine(Model(options.bundle)) as engine:
        for cancel_echo in (True, False):
            for delay in (0.04, 0.15):
                talk = Monologue(engine, [*ASKED], delay=delay, cancel_echo=cancel_echo)
                counts = dict(talk.run(60 * options.minutes))
                name = "echo cancellation" if cancel_echo else "half duplex"
                print(f"{name}, delay {delay} s: {counts}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
