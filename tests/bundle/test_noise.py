"""Noise implemented from docs/bundle.md alone equals that of the runtime."""

import math
from collections.abc import Iterator

import numpy as np
import pytest

from omni_runtime.bundle.config import DitConfig
from omni_runtime.engine.dit import seeded_noise

WORD = (1 << 64) - 1
R, AREA = 3.6541528853610088, 0.00492867323399141
single = np.float32


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64 with ten rounds."""
    for _ in range(10):
        a, b = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
        high, low = (a >> 64, b >> 64), (a & WORD, b & WORD)
        counter = [high[1] ^ counter[1] ^ key[0], low[1], high[0] ^ counter[3] ^ key[1], low[0]]
        key = [(key[0] + 0x9E3779B97F4A7C15) & WORD, (key[1] + 0xBB67AE8584CAA73B) & WORD]
    return counter


def numbers(seed: int, block: int) -> Iterator[int]:
    """Yield the 32-bit numbers of one block of noise."""
    count = 0
    while True:
        count += 1
        for word in philox([count, 0, 0, block], [seed & WORD, seed >> 64]):
            yield word & 0xFFFFFFFF
            yield word >> 32


def ziggurat_edges() -> list[float]:
    edges = [0.0] * 256
    edges[255] = R
    for i in range(254, 0, -1):
        height = AREA / edges[i + 1] + math.exp(-(edges[i + 1] ** 2) / 2)
        edges[i] = math.sqrt(-2 * math.log(height))
    edges[0] = AREA / math.exp(-R * R / 2)
    return edges


EDGES = ziggurat_edges()
WIDTHS = [single(edge / 2**23) for edge in EDGES]
HEIGHTS = [single(1), *(single(math.exp(-edge * edge / 2)) for edge in EDGES[1:])]
BORDERS = [int(R / EDGES[0] * 2**23), 0]
BORDERS += [int(EDGES[i - 1] / EDGES[i] * 2**23) for i in range(2, 256)]


def normal(stream: Iterator[int]) -> np.float32:
    def uniform() -> np.float32:
        return single(next(stream) >> 8) * single(2**-24)

    while True:
        bits = next(stream)
        layer, negative, size = bits & 255, bits >> 8 & 1, bits >> 9
        value = single(size) * WIDTHS[layer]
        value = -value if negative else value
        if size < BORDERS[layer]:
            return value
        if layer:
            between = (HEIGHTS[layer - 1] - HEIGHTS[layer]) * uniform() + HEIGHTS[layer]
            if between < math.exp(-0.5 * float(value) ** 2):
                return value
            continue
        while True:
            beyond = single(-1 / R) * np.log1p(-uniform())
            other = -np.log1p(-uniform())
            if other + other > beyond * beyond:
                tail = single(R) + beyond
                return -tail if size >> 8 & 1 else tail


@pytest.mark.parametrize(
    ("seed", "block"), [(0, 0), (1, 0), (12345, 1), (2**40 + 7, 1000), (2**64 + 3, 5)]
)
def test_noise_of_the_document_equals_the_runtime(seed: int, block: int) -> None:
    config = DitConfig(
        hidden_size=1,
        layers=1,
        heads=1,
        head_dim=1,
        look_back_layers=1,
        block_frames=96,
        frames_per_code=2,
        mel_dim=80,
        codes=2,
        rotary_frequencies=(),
    )
    wanted = seeded_noise(seed, config)(block, 1)
    stream = numbers(seed, block)
    found = [normal(stream) for _ in range(wanted.size)]
    np.testing.assert_array_equal(np.reshape(found, wanted.shape), wanted)
    assert np.abs(wanted).max() > 3.0  # so that the rare branches have been taken
