"""The tests of tests/engine/test_kernels.py with kernels on arm64 and functions on this machine."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.android.arm64.emulator import Guest
from tests.engine import test_kernels as tests
from tests.trust import kernels

WEIGHTS = tuple(itertools.product((4, 8), (32, 64, 128, 256)))
HEADS = ((8, 1, 16), (6, 2, 32), (16, 2, 128), (28, 4, 128), (4, 4, 48))
TIMES = (1, 2, 3, 4, 7, 511, 512, 513, 1100)


def short(guest: Guest, library: Path) -> Iterator[str]:
    """Run every kernel on every width of weights. Yields a name of each test that passed."""
    with _kernels_of(guest, library):
        for bits, block in WEIGHTS:
            for outer, rows in ((37, 1), (5, 3), (70, 4), (50, 13)):
                tests.compare_block_matmul(bits, block, 3 * _unit(block), outer, rows)
            yield f"BlockMatMul, {bits} bits, block {block}"
        for time in (1, 7, 513):
            tests.test_anti_aliased_snake(time)
        yield "AntiAliasedSnake"
        for int8 in (False, True):
            tests.test_cached_attention(HEADS[0], int8)
        yield "CachedAttention and Int8CachedAttention"


def long(guest: Guest, library: Path) -> Iterator[str]:
    """Run the tests of tests/engine, and every number of blocks, rows and columns in a tile."""
    with _kernels_of(guest, library):
        for bits, block in WEIGHTS:
            for inner in (512, 768):
                tests.test_block_matmul(bits, block, inner)
            for blocks in range(1, 6):
                for outer, rows in ((2, 1), (2, 2), (7, 3)):
                    tests.compare_block_matmul(bits, block, blocks * _unit(block), outer, rows)
            for outer, rows in itertools.product((*range(2, 10), *range(47, 51)), range(4, 18)):
                tests.compare_block_matmul(bits, block, _unit(block), outer, rows)
            yield f"BlockMatMul, {bits} bits, block {block}"
        for bits, block in ((4, 32), (4, 256), (8, 32)):
            tests.test_block_matmul_part_by_part(bits, block)
        yield "BlockMatMul, part by part"
        for time in TIMES:
            tests.test_anti_aliased_snake(time)
        yield "AntiAliasedSnake"
        for heads, int8 in itertools.product(HEADS, (False, True)):
            tests.test_cached_attention(heads, int8)
        yield "CachedAttention and Int8CachedAttention"


def hostile(guest: Guest, library: Path, runs: int) -> str:
    """Run hostile calls. Returns how many ran. Raises EOFError when one ends the process."""
    found = kernels.hostile(runs, 0, library, vnni=True, by=guest.evaluate)
    assert found["valid, ran"] and not found["valid, refused"], found
    return str(dict(found))


def _unit(block: int) -> int:
    """Return the numbers of inputs of which exported graphs have multiples."""
    return max(block, 64)


def _kernels_of(guest: Guest, library: Path) -> Any:
    return patch.object(tests, "by_kernels", lambda model, fed: guest.evaluate(model, fed, library))
