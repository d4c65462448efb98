"""What `omni talk` shows: a status line with a level meter, captions, and figures of each turn.

The unheard rest of a reply that was cut is struck through, or put in brackets where there is no
terminal.
"""

import sys
from threading import Lock

import numpy as np

from omni_runtime.arrays import FloatArray
from omni_runtime.cli import ui
from omni_runtime.events import PlaybackUnderrun, PresetChosen
from omni_runtime.voice.events import (
    Caption,
    Forgotten,
    Interrupted,
    ReplyFailed,
    SessionEvent,
    State,
    StateChanged,
    TurnFigures,
)

METER = 12
FLOOR_DB = -60.0
WORDS = {
    State.LISTENING: "listening",
    State.HEARING: "hearing you",
    State.THINKING: "thinking",
    State.SPEAKING: "speaking",
}


def meter(samples: FloatArray) -> str:
    """A bar for the level of float32 samples (n,): empty at -60 dB, full at 0 dB."""
    power = float(np.mean(np.square(samples))) if len(samples) else 0.0
    level = 10 * np.log10(max(power, 1e-12))
    filled = round(METER * min(max(1 - level / FLOOR_DB, 0.0), 1.0))
    return "#" * filled + "." * (METER - filled)


def struck(text: str, *, terminal: bool) -> str:
    """Text that was not heard."""
    return f"\x1b[9m{text}\x1b[29m" if terminal else f" [not heard:{text}]"


class Screen:
    """Writes captions to standard output and everything else to standard error."""

    def __init__(self, *, quiet: bool, keys: str = "") -> None:
        self._quiet = quiet
        self._keys = keys
        self._terminal = sys.stdout.isatty() and sys.stderr.isatty()
        self._lock = Lock()
        self._state = State.LISTENING
        self._line = 0  # characters of the status line
        self._caption = False
        self._notes: list[str] = []  # shown after the turn
        self.muted = False

    def event(self, event: SessionEvent) -> None:
        """Show an event of the session."""
        with self._lock:
            match event:
                case StateChanged(state):
                    self._state = state
                case Caption(text):
                    self._clear()
                    sys.stdout.write(ui.printable(text, sys.stdout))
                    sys.stdout.flush()
                    self._caption = True
                case Interrupted(heard, text):
                    self._cut(heard, text)
                case TurnFigures():
                    self._end_caption()
                    self._figures(event)
                case PlaybackUnderrun() | PresetChosen() if not self._quiet:
                    self._notes.append(ui.speech_line(event, whole=False))
                case Forgotten(turns):
                    self._end_caption()
                    self._note(
                        f"the context was nearly full: the oldest {turns} turns are forgotten"
                    )
                case ReplyFailed(error):
                    self._end_caption()
                    self._note(f"error: {error}")
                case _:
                    pass

    def level(self, samples: FloatArray) -> None:
        """Show the level of microphone samples in the status line."""
        if self._quiet or not self._terminal:
            return
        with self._lock:
            if self._caption:
                return
            word = "muted" if self.muted else WORDS[self._state]
            line = f"\r[{meter(samples)}] {word:<12}{self._keys}"
            sys.stderr.write(line)
            sys.stderr.flush()
            self._line = len(line)

    def note(self, text: str) -> None:
        """Show a line beside the captions."""
        with self._lock:
            self._end_caption()
            self._note(text)

    def close(self) -> None:
        """Leave a clean line."""
        with self._lock:
            self._end_caption()
            self._clear()

    def _cut(self, heard: str, text: str) -> None:
        """The caption is on the screen already; mark where it was cut."""
        if not text:
            return
        self._clear()
        rest = text[len(heard) :]
        if rest and self._terminal:
            sys.stdout.write(f"\r\x1b[K{heard}{struck(rest, terminal=True)}")
        elif rest:
            sys.stdout.write(struck(rest, terminal=False))
        self._end_caption()

    def _figures(self, event: TurnFigures) -> None:
        if self._quiet:
            return
        line = ui.turn_line(event.turn)
        if event.voice_to_sound is not None:
            line = f"voice to sound {event.voice_to_sound:.2f} s · {line}"
        for note in (line, *self._notes):
            self._note(note)
        self._notes.clear()

    def _note(self, text: str) -> None:
        self._clear()
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def _end_caption(self) -> None:
        if self._caption:
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._caption = False

    def _clear(self) -> None:
        if self._line:
            sys.stderr.write("\r" + " " * self._line + "\r")
            sys.stderr.flush()
            self._line = 0
