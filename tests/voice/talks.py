"""A voice session between two files, in simulated time."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from omni_runtime.conversation import Conversation
from omni_runtime.options import ReplyOptions, SpeechOptions
from omni_runtime.voice.events import (
    Interrupted,
    ReplyFailed,
    SessionEvent,
    Speech,
    State,
    StateChanged,
    TurnFigures,
)
from omni_runtime.voice.file_device import FileDevice
from omni_runtime.voice.playback import Playback
from omni_runtime.voice.session import VoiceSession
from omni_runtime.voice.vad import FRAME_SECONDS

RATE = 16_000
ONE_TURN = [State.HEARING, State.THINKING, State.SPEAKING, State.LISTENING]
REPLY = ReplyOptions(SpeechOptions(), max_tokens=60)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.float32)


@dataclass
class Talk:
    """A session between two files, in simulated time, and what happened in it."""

    session: VoiceSession
    playback: Playback
    events: list[SessionEvent] = field(default_factory=list)
    device: FileDevice | None = None
    sound: list[np.ndarray] = field(default_factory=list)

    def emit(self, event: SessionEvent) -> None:
        self.events.append(event)
        done = None
        match event:
            case StateChanged(State.THINKING):
                self.playback.start()
                done = False
            case Speech(samples):
                self.playback.add(samples)
            case Interrupted():
                self.playback.clear()
                done = True
            case TurnFigures() | ReplyFailed():
                done = True
            case _:
                pass
        if self.device is not None:
            self.device.notice(event, reply_done=done)

    def hear(self, *pieces: np.ndarray, at: Callable[[float], object] = lambda _: None) -> None:
        """Play a recording to the session; `at` is called with the time of each frame."""
        self.device = FileDevice(np.concatenate(pieces), self.playback, fast=True)

        def tick(_: np.ndarray, played: np.ndarray) -> None:
            self.sound.append(played)
            at(len(self.sound) * FRAME_SECONDS)

        self.device.run(self.session, tick)

    def of(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def states(self) -> list[State]:
        return [event.state for event in self.of(StateChanged)]

    @property
    def replies(self) -> list[str]:
        return [event.turn.text for event in self.of(TurnFigures)]

    @property
    def figures(self) -> list[TurnFigures]:
        return self.of(TurnFigures)

    @property
    def conversation(self) -> Conversation:
        one = self.session._engine.conversation
        return one.engine._entries[one.id].conversation
