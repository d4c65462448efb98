"""Single keys from a terminal, without Enter. Nothing where there is no terminal."""

import importlib
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

ESCAPE = "\x1b"


@contextmanager
def reading(press: Callable[[str], object]) -> Generator[bool]:
    """Call `press` for each key, on a thread of its own; False where keys cannot be read."""
    if not sys.stdin.isatty():
        yield False
        return
    over = Event()
    readers = {"win32": _windows}
    reader = readers.get(sys.platform, _posix)
    thread = Thread(target=reader, args=(press, over), name="omni-keys", daemon=True)
    restore = _character_mode()
    thread.start()
    try:
        yield True
    finally:
        over.set()
        thread.join(1.0)
        restore()


def _character_mode() -> Callable[[], object]:
    """Switch line editing and echo off; returns what switches them on again."""
    if sys.platform == "win32":
        return lambda: None
    termios: Any = importlib.import_module("termios")
    tty: Any = importlib.import_module("tty")
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    return lambda: termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _posix(press: Callable[[str], object], over: Event) -> None:
    select: Any = importlib.import_module("select")
    descriptor = sys.stdin.fileno()
    while not over.is_set():
        ready, _, _ = select.select([descriptor], [], [], 0.1)
        if ready:
            # Not sys.stdin.read: its buffer hides further keys from select.
            typed = os.read(descriptor, 64).decode(errors="ignore")
            if not typed:
                return
            if not typed.startswith(ESCAPE):  # arrows, function keys
                for key in typed:
                    press(key)


def _windows(press: Callable[[str], object], over: Event) -> None:
    msvcrt: Any = importlib.import_module("msvcrt")
    while not over.wait(0.03):
        while msvcrt.kbhit():
            press(msvcrt.getwch())
