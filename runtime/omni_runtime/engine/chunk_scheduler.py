"""Chunk scheduling: how many codes to synthesize at once, and when to release the samples.

Speech is synthesized in chunks of blocks. A small chunk is ready earlier. A large chunk costs less
per second of speech, since look-ahead and vocoder context are computed once per chunk. Nothing runs
here; schedulers only decide. `FixedScheduler`
uses the same sizes on every machine, so that a seed gives the same samples everywhere;
`AdaptiveScheduler` follows the playback buffer.
"""

import math
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Literal, Protocol

ChunkPolicy = Literal["fixed", "adaptive", "whole"]

CHUNK_BLOCKS = (1, 2, 4, 8)
"""Blocks of the first chunk, the second and so on; later chunks have the last size."""
WHOLE = (sys.maxsize,)
"""No chunk before the speech is over."""
MAX_CHUNK_BLOCKS = 16
"""Blocks of the largest chunk; beyond it the cost per second hardly shrinks."""
FIRST_LOOK_AHEAD_CODES = 3
"""Codes of look-ahead behind the first block in low-latency mode. On the trained checkpoint the log
mel of that block differs from one-shot synthesis by 0.27 dB (12 codes: 0.01); in 120 replies a
recognizer mistakes as many words as with 12."""
SAFETY_FACTOR = 1.5
"""How much longer than estimated synthesis may take before playback underruns."""
LEAD_HORIZON_SECONDS = 10.0
"""Seconds of speech that a machine slightly below real time should survive without an underrun."""
REALTIME_TARGET = 0.95
"""Target: seconds of work per second of speech, slightly below 1 so the lead does not shrink."""
MAX_LEAD_SECONDS = 4.0
"""Longest lead before playback starts; a machine that needs more cannot play without underruns."""
FIRST_CHUNK_MARGIN = 1.5
"""Factor on MAX_LEAD_SECONDS while only one chunk has been measured."""
RECENT_DECODES, RECENT_CHUNKS = 24, 8
"""Measurements in the running speed estimates."""


class ChunkScheduler(Protocol):
    """Schedules the chunks of one utterance.

    `low_latency`: synthesize the first chunk early, with less look-ahead.
    """

    low_latency: bool

    @property
    def underrun(self) -> "Underrun | None":
        """After an underrun: why more will follow. None while playback keeps up."""
        ...

    def commit(self, ready: int, missing: int) -> int:
        """After each code: how many blocks to synthesize now; 0 means wait.

        `ready` blocks have their codes and look-ahead; the next one lacks `missing` codes.
        """
        ...

    def chunk_done(self, blocks: int, seconds: float) -> bool:
        """A chunk of `seconds` of speech is done: whether to release all samples that are held."""
        ...


class FixedScheduler:
    """Chunks of fixed sizes, released at once. Independent of playback."""

    low_latency = False
    underrun = None

    def __init__(self, sizes: Sequence[int] = CHUNK_BLOCKS) -> None:
        self._sizes = sizes
        self._chunks = 0

    def commit(self, ready: int, missing: int) -> int:  # noqa: ARG002 - part of the protocol
        size = self._sizes[min(self._chunks, len(self._sizes) - 1)]
        return size if ready >= size else 0

    def chunk_done(self, blocks: int, seconds: float) -> bool:  # noqa: ARG002 - part of the protocol
        self._chunks += 1
        return True


@dataclass(frozen=True)
class Underrun:
    """Why playback underruns: seconds of speech per second of work, below 1.

    `realtime` is the speed with the largest chunks, all work counted. `codes` is the speed of
    decoding alone (text and codes), an upper bound for every preset.
    """

    realtime: float
    codes: float


class AdaptiveScheduler:
    """Chunk sizes that follow the playback buffer.

    The first chunk is one block. It is released once the buffered speech covers the estimated time
    to the next chunk. Later chunks are as large as the buffer allows, but not so small that
    synthesis falls behind playback. If no reasonable lead avoids underruns, speech is released at
    once and chunks double, so underruns are few.
    """

    low_latency = True

    def __init__(
        self,
        block_seconds: float,
        codes_per_block: int,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        """`clock` returns seconds of work; it stands still while the caller handles an event."""
        self._block = block_seconds
        self._codes_per_block = codes_per_block
        self._clock = clock
        self._since = clock()
        self._decode_seconds: deque[float] = deque(maxlen=RECENT_DECODES)
        self._chunks: deque[tuple[int, float]] = deque(maxlen=RECENT_CHUNKS)
        self._first = 0.0  # seconds spent on the first chunk
        self._size = 0  # blocks of the last chunk
        self._held = 0.0  # seconds of speech not yet released
        self._lasts_until: float | None = None  # when the playback buffer runs empty
        self.pauses = 0

    def commit(self, ready: int, missing: int) -> int:
        now = self._lap(self._decode_seconds.append)
        if ready < 1:
            return 0
        return min(ready, MAX_CHUNK_BLOCKS) if ready >= self._wanted(now, ready, missing) else 0

    def chunk_done(self, blocks: int, seconds: float) -> bool:
        now = self._lap(lambda spent: self._chunks.append((blocks, spent)))
        self._first = self._first or self._chunks[0][1]
        self._size = blocks
        self._held += seconds
        if self._lasts_until is None:
            lead = self._lead(self._costs())
            if lead is not None and self._held < lead:
                return False
        elif self._lasts_until < now:  # holding back would lengthen the gap
            self.pauses += 1
        self._lasts_until = max(now, self._lasts_until or 0.0) + self._held
        self._held = 0.0
        return True

    @property
    def underrun(self) -> Underrun | None:
        """After an underrun: why more will follow. None while playback keeps up."""
        if not self.pauses:
            return None
        speech, costs = MAX_CHUNK_BLOCKS * self._block, self._costs()
        if costs.turn(MAX_CHUNK_BLOCKS) <= speech:
            return None
        return Underrun(
            realtime=speech / costs.turn(MAX_CHUNK_BLOCKS), codes=self._block / costs.decode
        )

    def _wanted(self, now: float, ready: int, missing: int) -> int:
        """Minimum size of the next chunk, in blocks."""
        if not self._size:
            return 1
        costs, most = (
            self._costs(),
            min(2 * self._size, MAX_CHUNK_BLOCKS),
        )
        lead = self._lead(costs)
        if lead is None:
            return min(most, CHUNK_BLOCKS[-1])
        if self._lasts_until is None:
            lacking = math.ceil((lead - self._held) / self._block)
            return min(max(costs.best, lacking), most)
        if ready < min(costs.best, most):
            return ready + 1  # smaller chunks take longer than they play: the lead would shrink
        more = missing * costs.decode / self._codes_per_block + costs.synthesis(ready + 1)
        late = now + SAFETY_FACTOR * more > self._lasts_until
        return ready if late or ready >= most else ready + 1

    def _lead(self, costs: "_Costs") -> float | None:
        """Seconds of speech to buffer before playback starts; None if no lead would suffice."""
        lead = costs.lead(costs.best)
        if len(self._chunks) == 1:  # it waits for the look-ahead that the first chunk skipped
            lead += (
                SAFETY_FACTOR * costs.decode * (1 - FIRST_LOOK_AHEAD_CODES / self._codes_per_block)
            )
        patience = MAX_LEAD_SECONDS * (FIRST_CHUNK_MARGIN if len(self._chunks) == 1 else 1.0)
        return lead if lead <= patience else None

    def _costs(self) -> "_Costs":
        """Fit recent measurements to a cost per chunk plus a cost per block."""
        decode = self._codes_per_block * sum(self._decode_seconds) / len(self._decode_seconds)
        # Chunks of one size determine no slope. The first one is half look-ahead: a point at 0.
        points = [(0, self._first / 2), *self._chunks]
        mean = sum(n for n, _ in points) / len(points)
        cost = sum(seconds for _, seconds in points) / len(points)
        spread = sum((n - mean) ** 2 for n, _ in points)
        slope = sum((n - mean) * (seconds - cost) for n, seconds in points) / spread
        slope = min(max(slope, 0.0), cost / mean)  # neither cost is negative
        return _Costs(self._block, decode, chunk=cost - slope * mean, block=slope)

    def _lap(self, note: Callable[[float], object]) -> float:
        """Record the seconds since the last lap; return the current time."""
        now = self._clock()
        note(now - self._since)
        self._since = now
        return now


def chunk_scheduler(
    name: ChunkPolicy,
    block_seconds: float,
    codes_per_block: int,
    clock: Callable[[], float] = perf_counter,
) -> ChunkScheduler:
    """Return a scheduler for one utterance; the arguments are those of `AdaptiveScheduler`."""
    if name == "adaptive":
        return AdaptiveScheduler(block_seconds, codes_per_block, clock)
    return FixedScheduler(WHOLE if name == "whole" else CHUNK_BLOCKS)


@dataclass(frozen=True)
class _Costs:
    """Costs in seconds: a block of speech plays for `length`; decoding its codes takes `decode`;
    synthesizing n blocks takes `chunk` + n * `block`."""

    length: float
    decode: float
    chunk: float
    block: float

    def synthesis(self, blocks: int) -> float:
        return self.chunk + blocks * self.block

    def turn(self, blocks: int) -> float:
        """Seconds from one chunk of this size to the next, decoding included."""
        return blocks * self.decode + self.synthesis(blocks)

    def lead(self, blocks: int) -> float:
        """Seconds of buffered speech that chunks of this size need to arrive in time."""
        turn = self.turn(blocks)
        return SAFETY_FACTOR * turn + LEAD_HORIZON_SECONDS * max(
            0.0, turn / (blocks * self.length) - REALTIME_TARGET
        )

    @property
    def best(self) -> int:
        """Chunk size with the smallest lead, in blocks."""
        return min(range(1, MAX_CHUNK_BLOCKS + 1), key=self.lead)
