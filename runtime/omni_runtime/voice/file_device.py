"""Files as microphone and loudspeaker: the same path as real devices, for tests and demos.

Time passes in frames of 32 ms. In real time it passes by the wall clock; with `fast` as quickly as
the session can follow, but never while a listener would have to wait for the reply.
"""

from collections.abc import Callable
from threading import Condition
from time import perf_counter, sleep

import numpy as np

from omni_runtime.arrays import FloatArray
from omni_runtime.voice.events import SessionEvent, State
from omni_runtime.voice.playback import Playback
from omni_runtime.voice.session import VoiceSession
from omni_runtime.voice.vad import FRAME, FRAME_SECONDS

PATIENCE = 120.0
"""Seconds without an event after which a reply is given up."""


class FileDevice:
    """Feeds a recording to a session and collects what is played, on one clock."""

    def __init__(self, recording: FloatArray, playback: Playback, *, fast: bool = False) -> None:
        """`recording` is float32 mono (n,) at 16 kHz."""
        self._recording = recording
        self._playback = playback
        self._fast = fast
        self._happened = Condition()
        self._events = 0
        self._reply_done = False

    def notice(self, event: SessionEvent, *, reply_done: bool | None = None) -> None:
        """Be told of every event of the session; `reply_done` when a reply begins or ends."""
        del event
        with self._happened:
            self._events += 1
            if reply_done is not None:
                self._reply_done = reply_done
            self._happened.notify_all()

    def run(self, session: VoiceSession, tick: Callable[[FloatArray, FloatArray], object]) -> None:
        """Play the whole recording, then silence until the last reply was heard.

        `tick` gets the frames of both sides, 32 ms each, as they pass.
        """
        frames = -(-len(self._recording) // FRAME)
        padded = np.pad(self._recording, (0, frames * FRAME - len(self._recording)))
        out_frame = round(FRAME_SECONDS * self._playback.rate)
        started, number, quiet = perf_counter(), 0, 0.0
        limit = session.turns.end_silence + 1.0
        while number < frames or quiet < limit:
            heard = padded[number * FRAME : (number + 1) * FRAME]
            if not len(heard):
                heard = np.zeros(FRAME, np.float32)
                quiet = quiet + FRAME_SECONDS if session.state is State.LISTENING else 0.0
            played = self._playback.take(out_frame)
            session.hear(heard)
            session.played(self._playback.taken_seconds)
            tick(heard, played)
            number += 1
            if self._fast:
                self._wait_for_reply(session)
            else:
                sleep(max(0.0, started + number * FRAME_SECONDS - perf_counter()))

    def _wait_for_reply(self, session: VoiceSession) -> None:
        """Let time stand still while the reply is being made and nothing of it can be played."""
        with self._happened:
            while self._stalled(session):
                before = self._events
                if not self._happened.wait(PATIENCE) and self._events == before:
                    return

    def _stalled(self, session: VoiceSession) -> bool:
        if session.state is State.THINKING:
            return True
        dry = self._playback.buffered_seconds < 2 * FRAME_SECONDS
        return session.state is State.SPEAKING and dry and not self._reply_done
