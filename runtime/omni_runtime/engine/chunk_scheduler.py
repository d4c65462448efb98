"""When codes become sound, and when the sound is let out: decisions only, nothing runs here.

Speech is made in chunks of blocks. A small chunk is early, a large one costs less for each second
of speech, since the look-ahead and the vocoder's context are paid once a chunk. `FixedScheduler`
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
"""Blocks of the first chunk, the second and so on; the last number then stays."""
WHOLE = (sys.maxsize,)
"""No chunk before the speech is over."""
MAX_CHUNK_BLOCKS = 16
"""Blocks of the largest chunk that is worth waiting for: the rest of the cost hardly shrinks."""
FIRST_LOOK_AHEAD_CODES = 4
"""Codes of look-ahead behind the first block when somebody waits for it. On the trained checkpoint
its log mel is then 0.15 to 0.26 dB from that of the whole utterance instead of 0.05 to 0.17."""
SAFETY_FACTOR = 1.5
"""BenchCase may take so much longer than estimated before a listener hears a gap."""
LEAD_HORIZON_SECONDS = 10.0
"""Seconds of speech for which a machine that is a little too slow gathers a lead."""
REALTIME_TARGET = 0.95
"""Share of its own length that a chunk may take, so that no lead leaks away unforeseen."""
MAX_LEAD_SECONDS = 4.0
"""Seconds of speech that may be gathered before any is heard; who needs more can't be fluent."""
FIRST_CHUNK_MARGIN = 1.5
"""How much more patience there is while a single chunk is all that was measured."""
RECENT_DECODES, RECENT_CHUNKS = 24, 8
"""What the estimates of the present speed look back on."""


class ChunkScheduler(Protocol):
    """Decides for one utterance.

    `low_latency`: the first chunk is better early than with all of its look-ahead.
    """

    low_latency: bool

    @property
    def underrun(self) -> "Underrun | None":
        """Why a listener who heard a pause will hear more of them; None while all is well."""
        ...

    def commit(self, ready: int, missing: int) -> int:
        """After each code: how many blocks to make sound of now; 0 is to wait.

        `ready` blocks have their codes and look-ahead, one more will in `missing` codes.
        """
        ...

    def chunk_done(self, blocks: int, seconds: float) -> bool:
        """A chunk of `seconds` of speech is done: may all that is held be heard now?"""
        ...


class FixedScheduler:
    """Chunks of fixed sizes, heard at once. Knows nothing of a listener."""

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
    """Speech that can't be fluent on this machine, in seconds of speech for a second of work.

    `realtime` is what the largest chunks reach, all work counted, `codes` what decoding codes
    reaches, text included, if making sound of them cost nothing.
    """

    realtime: float
    codes: float


class AdaptiveScheduler:
    """Chunks for somebody who is listening.

    The first chunk is the smallest. It is heard as soon as what is in hand lasts, and from then
    on each chunk is as large as what is still to be heard allows, but not so small that it takes
    longer than it lasts. Where no reasonable lead makes speech fluent, it is heard at once and
    chunks double: the pauses can only be made few.
    """

    low_latency = True

    def __init__(
        self,
        block_seconds: float,
        codes_per_block: int,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        """`clock` gives seconds; it should stand still while nobody asks for more speech."""
        self._block = block_seconds
        self._codes_per_block = codes_per_block
        self._clock = clock
        self._since = clock()
        self._decode_seconds: deque[float] = deque(maxlen=RECENT_DECODES)
        self._chunks: deque[tuple[int, float]] = deque(maxlen=RECENT_CHUNKS)
        self._first = 0.0  # seconds that the first chunk took
        self._size = 0  # blocks of the last chunk
        self._held = 0.0  # seconds of speech that nobody could hear yet
        self._lasts_until: float | None = None  # when all that was let out has been heard
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
        elif self._lasts_until < now:  # late is late: holding it back would lengthen the pause
            self.pauses += 1
        self._lasts_until = max(now, self._lasts_until or 0.0) + self._held
        self._held = 0.0
        return True

    @property
    def underrun(self) -> Underrun | None:
        """Why a listener who heard a pause will hear more of them; None while all is well."""
        if not self.pauses:
            return None
        speech, costs = MAX_CHUNK_BLOCKS * self._block, self._costs()
        if costs.turn(MAX_CHUNK_BLOCKS) <= speech:
            return None
        return Underrun(
            realtime=speech / costs.turn(MAX_CHUNK_BLOCKS), codes=self._block / costs.decode
        )

    def _wanted(self, now: float, ready: int, missing: int) -> int:
        """Blocks that the next chunk should have at least."""
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
            return ready + 1  # less takes longer to make than to hear: the lead would shrink
        more = missing * costs.decode / self._codes_per_block + costs.synthesis(ready + 1)
        late = now + SAFETY_FACTOR * more > self._lasts_until
        return ready if late or ready >= most else ready + 1

    def _lead(self, costs: "_Costs") -> float | None:
        """Seconds of speech to have in hand before any is heard; None if patience is of no use."""
        lead = costs.lead(costs.best)
        if (
            len(self._chunks) == 1
        ):  # what the first did not look at the second still has to wait for
            lead += (
                SAFETY_FACTOR * costs.decode * (1 - FIRST_LOOK_AHEAD_CODES / self._codes_per_block)
            )
        patience = MAX_LEAD_SECONDS * (FIRST_CHUNK_MARGIN if len(self._chunks) == 1 else 1.0)
        return lead if lead <= patience else None

    def _costs(self) -> "_Costs":
        """What was measured of late, as a cost of each chunk and one of each block."""
        decode = self._codes_per_block * sum(self._decode_seconds) / len(self._decode_seconds)
        # Chunks of one size tell nothing of another. The first is half look-ahead: a point at 0.
        points = [(0, self._first / 2), *self._chunks]
        mean = sum(n for n, _ in points) / len(points)
        cost = sum(seconds for _, seconds in points) / len(points)
        spread = sum((n - mean) ** 2 for n, _ in points)
        slope = sum((n - mean) * (seconds - cost) for n, seconds in points) / spread
        slope = min(max(slope, 0.0), cost / mean)  # neither of the two costs is negative
        return _Costs(self._block, decode, chunk=cost - slope * mean, block=slope)

    def _lap(self, note: Callable[[float], object]) -> float:
        """Note the seconds since the last lap; the time now."""
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
    """Seconds: a block of speech lasts `length`, decoding its codes takes `decode`, making sound of
    n blocks `chunk` + n `block`."""

    length: float
    decode: float
    chunk: float
    block: float

    def synthesis(self, blocks: int) -> float:
        return self.chunk + blocks * self.block

    def turn(self, blocks: int) -> float:
        """From one chunk of this size to the next, whose codes are decoded between."""
        return blocks * self.decode + self.synthesis(blocks)

    def lead(self, blocks: int) -> float:
        """Speech to have in hand so that chunks of this size follow in time."""
        turn = self.turn(blocks)
        return SAFETY_FACTOR * turn + LEAD_HORIZON_SECONDS * max(
            0.0, turn / (blocks * self.length) - REALTIME_TARGET
        )

    @property
    def best(self) -> int:
        """The size that needs the least lead, in blocks."""
        return min(range(1, MAX_CHUNK_BLOCKS + 1), key=self.lead)
