"""Keys from a terminal: each at once, and none from the middle of an escape sequence."""

import os
import sys
import threading

import pytest

from omni_runtime.cli import keys

pytestmark = pytest.mark.skipif(os.name != "posix", reason="has no pseudo terminals")


def test_keys_that_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, ours = os.openpty()
    pressed: list[str] = []
    quit_pressed = threading.Event()

    def press(key: str) -> None:
        pressed.append(key)
        if key == "q":
            quit_pressed.set()

    with os.fdopen(ours) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with keys.reading(press) as readable:
            assert readable
            os.write(terminal, b"\x1b[A")
            threading.Event().wait(0.3)
            os.write(terminal, b"m q")
            assert quit_pressed.wait(20)
    os.close(terminal)
    assert pressed == ["m", " ", "q"]
