"""Uses a server for long: spoken sessions, chats that hang up, sessions that drop.

    python -m tests.trust.soak [BUNDLE] --minutes 60

A fault is an error that a caller sees, a session without an event for two minutes, a server that
ends, or memory that grows by more than a tenth (and 64 MB) after the first quarter of the time.
"""

import argparse
import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import httpx
from tests.server.load import Load
from tests.trust.campaign import bundle_argument

MARGIN = 64.0
"""MB beside the tenth by which memory may grow."""


class Soak:
    """The callers of one server."""

    def __init__(self, port: int, pid: int, end: float) -> None:
        self.url = f"http://127.0.0.1:{port}/v1/chat/completions"
        self.load, self.end = Load(port, pid), end
        self.faults: list[str] = []
        self.memory: list[float] = []

    async def chats(self, number: int) -> None:
        """Send chats; hang up in the middle of every third reply."""
        r = random.Random(number)
        async with httpx.AsyncClient(timeout=120) as client:
            while time.monotonic() < self.end:
                ask = {"role": "user", "content": r.choice(("Hello", "What is 7 + 5?", "x" * 500))}
                body = {"model": "omni", "messages": [ask], "stream": True, "max_tokens": 40}
                async with client.stream("POST", self.url, json=body) as reply:
                    if reply.status_code != 200:
                        self.load.counts[f"error {reply.status_code}"] += 1
                    left = r.choice((3, 10**6, 10**6))
                    async for _ in reply.aiter_lines():
                        left -= 1
                        if left == 0:
                            break
                self.load.counts["chats"] += 1

    async def drops(self, number: int) -> None:
        """Open sessions and leave them."""
        while time.monotonic() < self.end:
            await self.load.drop(number)
            number += 1
            await asyncio.sleep(1)

    async def guarded(self, work: Callable[[int], Awaitable[None]], number: int) -> None:
        """Note what ends a caller early."""
        try:
            await work(number)
        except Exception as error:
            self.faults.append(f"{work.__name__} {number}: {error!r}")

    async def callers(self, number: int) -> None:
        """Ask aloud and listen."""
        await self.load.caller(number, self.end)

    async def run(self) -> None:
        """Run all callers, and note the memory."""
        work = [(self.callers, 1), (self.callers, 2), (self.chats, 3), (self.chats, 4)]
        tasks = [asyncio.create_task(self.guarded(*one)) for one in (*work, (self.drops, 5))]
        while any(not task.done() for task in tasks):
            self.memory.append(self.load.memory())
            self.load.report()
            await asyncio.wait(tasks, timeout=min(60, max(1, self.end - time.monotonic())))
        first = max(self.memory[: max(2, len(self.memory) // 4)])
        if self.memory[-1] > 1.1 * first + MARGIN:
            self.faults.append(f"memory grew from {first:.0f} to {self.memory[-1]:.0f} MB")
        self.faults += [name for name in self.load.counts if name.startswith(("error", "failed"))]


def main() -> int:
    """Start a server, use it, and print the faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.trust.soak", description=__doc__)
    bundle_argument(parser)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--port", type=int, default=18_765)
    options = parser.parse_args()
    command = [sys.executable, "-m", "omni_runtime.cli.main", "serve", str(options.bundle),
               "--port", str(options.port), "--name", "omni", "-q"]  # fmt: skip
    server = subprocess.Popen(command)
    try:
        wait_for(server, options.port)
        soak = Soak(options.port, server.pid, time.monotonic() + 60 * options.minutes)
        asyncio.run(soak.run())
        if server.poll() is not None:
            soak.faults.append(f"the server ended with {server.returncode}")
    finally:
        server.terminate()
        server.wait(60)
    for fault in soak.faults:
        print(fault)  # noqa: T201
    return int(bool(soak.faults))


def wait_for(server: "subprocess.Popen[bytes]", port: int) -> None:
    """Wait until the server answers."""
    for _ in range(600):
        assert server.poll() is None, "the server did not start"
        try:
            httpx.get(f"http://127.0.0.1:{port}/health", timeout=5)
        except httpx.TransportError:
            time.sleep(0.2)
        else:
            return
    raise TimeoutError(f"no answer on port {port}")


if __name__ == "__main__":
    sys.exit(main())
