"""Many realtime sessions at once, and many that drop: nothing stuck, nothing leaked.

    omni serve BUNDLE --sessions 32 --port 8000 &
    python -m tests.server.load --port 8000 --pid PID --callers 20 --minutes 10
    python -m tests.server.load --port 8000 --pid PID --drops 1000

Each caller asks recorded questions in real time and listens to the answers. A report line tells the
latencies, and the resident memory of the server each minute.
"""

import argparse
import asyncio
import base64
import json
import random
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
from websockets.asyncio.client import connect

from omni_runtime.inputs.media import load_audio
from omni_runtime.wav import pcm16

DATA = Path(__file__).parent.parent / "data"
RATE = 24_000
FRAME = RATE // 50
STUCK = 120.0
"""Seconds without an event after which a session counts as stuck."""


def questions() -> list[list[str]]:
    """Events that play each recorded question, with silence after it."""
    silence = np.zeros(RATE, np.float32)
    found = []
    for path in sorted(DATA.glob("*.flac")):
        samples = np.concatenate([load_audio(path, RATE), silence])
        pieces = [samples[i : i + FRAME] for i in range(0, len(samples), FRAME)]
        data = [base64.b64encode(pcm16(piece)).decode() for piece in pieces]
        found.append([
            json.dumps({"type": "input_audio_buffer.append", "audio": one}) for one in data
        ])  # fmt: skip
    return found


class Load:
    """Counts what the callers see."""

    def __init__(self, port: int, pid: int, fill: int = 0) -> None:
        self.address = f"ws://127.0.0.1:{port}/v1/realtime"
        self.pid, self.fill = pid, fill
        self.counts: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.questions = questions()

    def memory(self) -> float:
        """Resident memory of the server in MB."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * 4096 / 1e6

    def connected(self) -> connect:
        """A session."""
        return connect(self.address, max_size=None, open_timeout=STUCK)

    async def caller(self, number: int, end: float) -> None:
        """Open a session, ask and listen until `end`."""
        async with self.connected() as socket:
            await self.talk(socket, number, end)

    async def talk(self, socket, number: int, end: float) -> None:
        """Ask and listen until `end`."""
        r = random.Random(number)
        while time.monotonic() < end:
            await self.turn(socket, r)
        self.counts["callers that ended"] += 1

    async def fill_context(self, socket) -> None:
        """Write and be answered for `fill` tokens."""
        written = 0
        while written < self.fill:
            written += await self.written_turn(socket)

    async def written_turn(self, socket) -> int:
        """A written message and its spoken answer; returns their tokens."""
        text = {"type": "input_text", "text": "Seven plus five? " * 60}
        item = {"type": "message", "role": "user", "content": [text]}
        await socket.send(json.dumps({"type": "conversation.item.create", "item": item}))
        await socket.send(json.dumps({"type": "response.create"}))
        while True:
            event = json.loads(await asyncio.wait_for(socket.recv(), STUCK))
            assert event["type"] != "error", event
            if event["type"] == "response.done":
                usage = event["response"]["usage"]
                cached = usage["input_token_details"]["cached_tokens"]
                return usage["total_tokens"] - cached

    async def turn(self, socket, r: random.Random) -> None:
        """One question in real time, and its answer."""
        frames = r.choice(self.questions)
        asked = asyncio.create_task(self.speak(socket, frames))
        decided, heard = 0.0, 0.0
        while True:
            event = json.loads(await asyncio.wait_for(socket.recv(), STUCK))
            kind = event["type"]
            if kind == "input_audio_buffer.speech_stopped":
                decided = time.monotonic()
            elif kind == "response.output_audio.delta":
                if decided:
                    self.latencies.append(time.monotonic() - decided)
                    decided = 0.0
                heard += len(event["delta"]) * 3 / 4 / 2 / RATE
            elif kind == "error":
                self.counts[f"error {event['error']['code']}"] += 1
            elif kind == "response.done":
                self.counts[f"response {event['response']['status']}"] += 1
                if event["response"]["status"] == "completed":
                    break
        await asked
        await asyncio.sleep(min(heard, 6.0))  # listen to it

    async def speak(self, socket, frames: list[str]) -> None:
        started = time.monotonic()
        for number, frame in enumerate(frames):
            await socket.send(frame)
            await asyncio.sleep(max(0.0, started + number * 0.02 - time.monotonic()))

    async def drop(self, number: int) -> None:
        """Connect and leave at a random point."""
        r = random.Random(number)
        try:
            socket = await self.connected()
        except Exception:
            self.counts["refused"] += 1
            return
        frames = r.choice(self.questions)
        for frame in frames[: r.randrange(len(frames))]:
            await socket.send(frame)
            if r.random() < 0.02:
                await asyncio.sleep(0.02)
        if r.random() < 0.5:
            await asyncio.sleep(r.random())
        if r.random() < 0.5:
            await socket.close()
        else:
            socket.transport.abort()
        self.counts["dropped"] += 1

    async def run(self, callers: int, minutes: float) -> None:
        """All callers for some minutes."""
        async with AsyncExitStack() as stack:
            sockets = [await stack.enter_async_context(self.connected()) for _ in range(callers)]
            await asyncio.gather(*map(self.fill_context, sockets))
            end = time.monotonic() + 60 * minutes
            talks = (self.talk(socket, n, end) for n, socket in enumerate(sockets))
            tasks = [asyncio.create_task(one) for one in talks]
            while not all(task.done() for task in tasks):
                self.report()
                await asyncio.wait(tasks, timeout=60)
        for task in tasks:
            if (error := task.exception()) is not None:
                self.counts[f"failed: {error!r}"] += 1
        self.report()

    def report(self) -> None:
        """Print counts, latencies and memory."""
        late = np.percentile(self.latencies, [50, 95]).round(2) if self.latencies else None
        print(f"{self.memory():.0f} MB, latency {late}, {dict(self.counts)}", flush=True)  # noqa: T201

    async def drops(self, count: int) -> None:
        """`count` connections, eight at a time."""
        for start in range(0, count, 8):
            await asyncio.gather(*(self.drop(n) for n in range(start, min(count, start + 8))))
            if start % 200 == 0:
                self.report()
        await asyncio.sleep(3)
        self.report()


def main() -> int:
    """Run one of both."""
    parser = argparse.ArgumentParser(prog="python -m tests.server.load", description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--callers", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--fill", type=int, default=0, metavar="TOKENS")
    parser.add_argument("--drops", type=int, default=0)
    options = parser.parse_args()
    load = Load(options.port, options.pid, options.fill)
    if options.drops:
        asyncio.run(load.drops(options.drops))
    else:
        asyncio.run(load.run(options.callers, options.minutes))
    bad = [name for name in load.counts if name.startswith(("error", "failed"))]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
