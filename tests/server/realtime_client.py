"""A client of the realtime protocol: sends sound in small frames and collects events."""

import base64
from typing import Any

import numpy as np

from omni_runtime.wav import pcm16

RATE = 24_000
FRAME = RATE // 50


class Client:
    """A connection that sends sound in small frames and collects events."""

    def __init__(self, connection) -> None:
        self.connection = connection
        self.seen: list[Any] = []

    def until(self, kind: str) -> list[Any]:
        """Receive up to an event of this type; returns what came."""
        found: list[Any] = []
        while not found or found[-1].type != kind:
            found.append(self.connection.recv())
            assert found[-1].type != "error" or kind == "error", found[-1]
        self.seen += found
        return found

    def sound(self, samples: np.ndarray) -> None:
        for start in range(0, len(samples), FRAME):
            data = base64.b64encode(pcm16(samples[start : start + FRAME])).decode()
            self.connection.input_audio_buffer.append(audio=data)

    def silence(self, seconds: float) -> None:
        self.sound(np.zeros(round(seconds * RATE), np.float32))

    def update(self, **session) -> Any:
        self.connection.session.update(session={"type": "realtime", **session})
        return self.until("session.updated")[-1].session

    def say(self, text: str) -> None:
        part = {"type": "input_text", "text": text}
        item = {"type": "message", "role": "user", "content": [part]}
        self.connection.conversation.item.create(item=item)
        self.connection.response.create()


def kinds(events: list[Any]) -> list[str]:
    return [event.type for event in events]


def transcript(events: list[Any]) -> str:
    return "".join(e.delta for e in events if e.type == "response.output_audio_transcript.delta")


def speech(events: list[Any]) -> np.ndarray:
    data = b"".join(
        base64.b64decode(e.delta) for e in events if e.type == "response.output_audio.delta"
    )
    return np.frombuffer(data, "<i2")
