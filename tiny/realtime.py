"""Plays a recording into a realtime server in real time, and writes down what comes back.

The events have the form of those of `omni talk --record`, so `tiny.talk report` reads both. Times
are seconds on the clock of the recording. A turn is decided when the client is told of it, and
the voice ends where the script says, not where the server heard it end.
"""

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import soundfile as sf
import soxr
from websockets.asyncio.client import ClientConnection, connect

from omni_runtime.wav import pcm16

RATE = 24_000
FRAME = RATE // 50
QUIET = 15.0
"""Seconds without an event after which the last reply is over."""

Event = dict[str, Any]


class Call:
    """One recording, from connecting to the end of the last reply."""

    def __init__(self, recording: Path, script: list[dict[str, Any]]) -> None:
        samples, rate = sf.read(recording, dtype="float32")
        self._samples = np.asarray(soxr.resample(samples, rate, RATE), np.float32)
        self._ends = [item["end"] for item in script]
        self._started = 0.0
        self._decided: float | None = None
        self._response: Event = {}

    async def run(self, url: str) -> list[Event]:
        """Return the events. Raises OSError or websockets' errors if the connection fails."""
        events: list[Event] = []
        async with connect(url, max_size=None) as socket:
            created = json.loads(await socket.recv())
            assert created["type"] == "session.created", created
            self._started = perf_counter()
            speaking = asyncio.create_task(self._speak(socket))
            while True:
                try:
                    received = json.loads(await asyncio.wait_for(socket.recv(), QUIET))
                except TimeoutError:
                    if speaking.done():
                        break
                    continue
                events += self._translated(received, perf_counter() - self._started)
            await speaking
        return events

    async def _speak(self, socket: ClientConnection) -> None:
        """Send each frame at the moment at which a microphone would have captured all of it."""
        for start in range(0, len(self._samples), FRAME):
            frame = self._samples[start : start + FRAME]
            captured = self._started + (start + len(frame)) / RATE
            await asyncio.sleep(max(0.0, captured - perf_counter()))
            audio = base64.b64encode(pcm16(frame)).decode()
            await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))

    def _translated(self, received: Event, at: float) -> Iterator[Event]:
        match received["type"]:
            case "input_audio_buffer.speech_started":
                yield {"type": "state", "state": "hearing", "at": at}
            case "input_audio_buffer.speech_stopped":
                self._decided = at
                yield {"type": "state", "state": "thinking", "at": at}
            case "response.created":
                self._response = {"samples": 0, "created": at}
            case "response.output_audio.delta":
                if not self._response["samples"]:
                    self._response["first"] = at
                    yield {"type": "state", "state": "speaking", "at": at}
                self._response["samples"] += len(base64.b64decode(received["delta"])) // 2
            case "response.done" if received["response"]["status"] == "cancelled":
                yield {"type": "interrupted", "at": at}
            case "response.done" if received["response"]["status"] != "completed":
                yield {"type": "error", "at": at, "error": received["response"]}
            case "response.done" if self._response["samples"]:
                yield self._turn(received["response"], at)
            case "error":
                yield {"type": "error", "at": at, "error": received["error"]}
            case _:
                pass

    def _turn(self, response: Event, at: float) -> Event:
        first = self._response["first"]
        voice = max((end for end in self._ends if end <= first), default=None)
        seconds = self._response["samples"] / RATE
        return {
            "type": "turn",
            "at": at,
            "text": response["output"][0]["content"][0]["transcript"],
            "decided_to_sound": None if self._decided is None else first - self._decided,
            "voice_to_sound": None if voice is None else first - voice,
            "realtime": seconds / (at - self._response["created"]),
        }


def call(url: str, scripts: Path, out: Path) -> None:
    """Play all recordings of a folder, one after the other; writes OUT/NAME/events.jsonl."""
    for recording in sorted(scripts.glob("*.wav")):
        script = json.loads(recording.with_suffix(".json").read_text())
        events = asyncio.run(Call(recording, script).run(url))
        folder = out / recording.stem
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
