"""The page in Firefox, whose microphone cannot be resampled: a conversation, typed and spoken."""

import time
from collections.abc import Callable

import pytest
from tiny.judges import sphinx

from desk import Desk, pulse
from server.firefox import ENTER, FIREFOX, firefox
from server.running import Running
from server.test_page import assert_cut, tried

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FIREFOX is None, reason="firefox is not installed"),
    pulse,
]


def test_a_conversation(server: Running, desk: Desk, recording: Callable) -> None:
    def conversation() -> None:
        with firefox(desk) as page:
            page.open(server.url)
            with desk.listening() as recorded:
                page.click("#text")
                page.type("What is seven plus five?" + ENTER)
                page.until("#captions .reply:last-of-type", "Seven plus five is twelve.")
                heard = recorded.until_quiet()
            assert sphinx(heard).endswith("five is twelve")

            page.click("#talk")
            page.until("#status", "listening")
            time.sleep(2)  # the browser's noise suppression adapts
            with desk.listening() as recorded:
                page.click("#text")
                page.type("Count from one to ten." + ENTER)
                page.until("#status", "speaking")
                time.sleep(0.7)
                desk.say(recording("seven_plus_five", 16_000))
                page.until("#captions s", "ten")
                page.until("#captions .reply:last-of-type", " plus ")
                heard = recorded.until_quiet(4)
            assert_cut(heard)

    tried(conversation)
