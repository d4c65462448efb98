"""The chunk scheduler on simulated machines with simulated playback. No clock, no model."""

import random
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from omni_runtime.engine.chunk_scheduler import (
    CHUNK_BLOCKS,
    FIRST_LOOK_AHEAD_CODES,
    MAX_CHUNK_BLOCKS,
    WHOLE,
    AdaptiveScheduler,
    ChunkScheduler,
    FixedScheduler,
)

BLOCK, CODES = 0.24, 12
"""Seconds and codes of a block, as published checkpoints have them."""
CODE = BLOCK / CODES
FULL = 8
"""Blocks of the chunks at which a machine reaches its nominal speed."""
DRAWING = 0.3
"""Share of drawing codes in the work of such a chunk."""


@dataclass
class Machine:
    """Makes `speed` seconds of speech a second in large chunks.

    Each chunk costs `fixed` seconds and a block of look-ahead besides its own blocks; all work
    varies by `jitter` (lognormal). The first `written` codes take `writing` times as long: their
    text is still being written.
    """

    speed: float
    fixed: float = 0.02
    jitter: float = 0.0
    seed: int = 0
    written: int = 0
    writing: float = 1.0
    now: float = 0.0
    drawn: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        work = FULL * BLOCK / self.speed
        self._draw = DRAWING * work / (FULL * CODES)
        self._block = ((1 - DRAWING) * work - self.fixed) / (FULL + 1)

    def clock(self) -> float:
        return self.now

    def decode(self) -> None:
        slower = self.writing if self.drawn < self.written else 1.0
        self.drawn += 1
        self._work(self._draw * slower)

    def make(self, blocks: int) -> None:
        self._work(self.fixed + self._block * (blocks + 1))

    def _work(self, seconds: float) -> None:
        self.now += seconds * self._random.lognormvariate(0, self.jitter)


@dataclass
class Heard:
    """Simulated playback: the time of the first chunk, each pause, and the chunk sizes."""

    first: float | None = None
    gaps: list[float] = field(default_factory=list)
    chunks: list[int] = field(default_factory=list)
    seconds: float = 0.0
    until: float = 0.0

    def hear(self, now: float, seconds: float) -> None:
        if self.first is None:
            self.first = self.until = now
        if now > self.until + 1e-9:
            self.gaps.append(now - self.until)
            self.until = now
        self.until += seconds
        self.seconds += seconds


def speak(machine: Machine, scheduler: ChunkScheduler, codes: int = 750) -> Heard:
    """Decode all codes, synthesize chunks as Code2Wav does, and play them."""
    heard, waiting, held = Heard(), 0, 0.0
    for _ in range(codes):
        machine.decode()
        waiting += 1
        ahead = FIRST_LOOK_AHEAD_CODES if scheduler.low_latency and not heard.chunks else CODES
        ready, more = divmod(waiting - ahead, CODES)
        commit = scheduler.commit(ready, CODES - more)
        if not commit:
            continue
        assert commit <= ready, "look-ahead is part of every chunk"
        machine.make(commit)
        waiting -= commit * CODES
        held += commit * BLOCK
        heard.chunks.append(commit)
        if scheduler.chunk_done(commit, commit * BLOCK):
            heard.hear(machine.now, held)
            held = 0.0
    if waiting:
        machine.make(-(-waiting // CODES) - 1)
        heard.chunks.append(-(-waiting // CODES))
    heard.hear(machine.now, held + waiting * CODE)
    assert heard.seconds == pytest.approx(codes * CODE)
    return heard


def live(machine: Machine) -> AdaptiveScheduler:
    return AdaptiveScheduler(BLOCK, CODES, machine.clock)


def listen(machine: Machine, codes: int = 750) -> Heard:
    """Simulate with the adaptive scheduler."""
    return speak(machine, live(machine), codes)


def smallest(speed: float) -> float:
    """Return the time of the first chunk on a machine without jitter."""
    machine = Machine(speed)
    for _ in range(CODES + FIRST_LOOK_AHEAD_CODES):
        machine.decode()
    machine.make(1)
    return machine.now


JITTERS = [(0.0, 0), (0.05, 1), (0.05, 2), (0.05, 3), (0.05, 4)]
FIXED = [0.0, 0.05]


@pytest.mark.parametrize("fixed", FIXED)
@pytest.mark.parametrize(("jitter", "seed"), JITTERS)
@pytest.mark.parametrize(("speed", "wait"), [(1.05, 3.5), (1.3, 1.6), (2.0, 0.85), (5.0, 0.15)])
def test_a_machine_that_is_fast_enough_never_pauses(
    speed: float, wait: float, jitter: float, seed: int, fixed: float
) -> None:
    machine = Machine(speed, fixed, jitter, seed)
    scheduler = live(machine)
    heard = speak(machine, scheduler)
    assert not heard.gaps and scheduler.underrun is None
    assert scheduler.pauses == 0
    assert heard.first is not None and heard.first < wait
    assert heard.chunks[0] == 1 and max(heard.chunks[:-1]) <= MAX_CHUNK_BLOCKS
    assert all(b <= 2 * a for a, b in pairwise(heard.chunks[:-1]))


def test_a_fast_machine_plays_the_first_chunk_at_once() -> None:
    """No audio is delayed if that does not prevent a pause."""
    for speed in (3.0, 5.0):
        assert listen(Machine(speed)).first == smallest(speed)


def test_a_large_buffer_is_used_for_large_chunks() -> None:
    fast, steady = listen(Machine(5.0)), speak(Machine(5.0), FixedScheduler())
    assert fast.chunks[:-1][-1] == MAX_CHUNK_BLOCKS
    assert len(fast.chunks) < len(steady.chunks)


@pytest.mark.parametrize("speed", [1.05, 1.3])
def test_fixed_sizes_underrun_where_adaptive_ones_do_not(speed: float) -> None:
    """Otherwise the tests above would also pass with fixed sizes."""
    assert len(speak(Machine(speed), FixedScheduler()).gaps) >= 2
    assert not listen(Machine(speed)).gaps


def test_a_buffer_covers_a_slightly_slow_machine() -> None:
    heard = listen(Machine(0.95), codes=500)
    assert len(heard.gaps) <= 1 and len(speak(Machine(0.95), FixedScheduler(), 500).gaps) >= 4


@pytest.mark.parametrize(("jitter", "seed"), JITTERS)
def test_a_slow_machine_starts_at_once_and_reports_its_speed(jitter: float, seed: int) -> None:
    machine = Machine(0.5, jitter=jitter, seed=seed)
    scheduler = live(machine)
    heard = speak(machine, scheduler)
    assert heard.chunks[:4] == list(CHUNK_BLOCKS)
    assert heard.first == pytest.approx(smallest(0.5), rel=0.2)
    assert (
        len(heard.gaps) <= scheduler.pauses + 1
    )  # the last comes after AdaptiveScheduler was asked
    assert scheduler.underrun is not None
    assert scheduler.underrun.realtime == pytest.approx(0.5, rel=0.15)
    assert scheduler.underrun.codes == pytest.approx(0.5 / DRAWING, rel=0.15)


def test_no_report_before_an_underrun() -> None:
    machine = Machine(0.5)
    scheduler = live(machine)
    speak(machine, scheduler, codes=30)
    assert scheduler.pauses == 0 and scheduler.underrun is None


def test_slow_text_delays_speech_only_while_it_is_decoded() -> None:
    """Codes are decoded with the text, slower than they are played, then alone."""
    machine = Machine(1.5, written=100, writing=6.0)
    scheduler = live(machine)
    heard = speak(machine, scheduler)
    assert 1 <= len(heard.gaps) <= 4
    written = Machine(1.5, written=100, writing=6.0)
    for _ in range(100 + 2 * CODES):
        written.decode()
    written.make(CHUNK_BLOCKS[-1])
    assert heard.until - sum(heard.gaps) == pytest.approx((heard.first or 0) + heard.seconds)
    assert scheduler.underrun is None, "it is fast again"


@pytest.mark.parametrize(("sizes", "wanted"), [(CHUNK_BLOCKS, [1, 2, 4, 8, 8]), (WHOLE, [])])
def test_fixed_sizes_do_not_use_the_clock(sizes: tuple[int, ...], wanted: list[int]) -> None:
    heard = speak(Machine(0.1), FixedScheduler(sizes), codes=25 * CODES)
    assert heard.chunks[:-1] == wanted
