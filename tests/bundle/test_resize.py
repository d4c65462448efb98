"""Resizing implemented from docs/bundle.md alone equals Pillow's."""

from collections.abc import Iterator

import numpy as np
import pytest

from omni_runtime.inputs.pixels import resize


def weight(distance: float) -> float:
    d = abs(distance)
    if d < 1:
        return (1.5 * d - 2.5) * d * d + 1
    return -0.5 * (((d - 5) * d + 8) * d - 4) if d < 2 else 0.0


def taps(size: int, wanted: int) -> Iterator[tuple[int, list[int]]]:
    """Return the first input and the integer weights of each output."""
    scale = size / wanted
    f = max(scale, 1.0)
    for output in range(wanted):
        c = (output + 0.5) * scale
        start, stop = max(int(c - 2 * f + 0.5), 0), min(int(c + 2 * f + 0.5), size)
        exact = [weight((x - c + 0.5) / f) for x in range(start, stop)]
        scaled = [one / sum(exact) * 2**22 for one in exact]
        yield start, [int(one + (0.5 if one >= 0 else -0.5)) for one in scaled]


def along_rows(image: np.ndarray, width: int) -> np.ndarray:
    if image.shape[1] == width:
        return image
    result = np.empty((len(image), width, 3), np.uint8)
    for output, (start, weights) in enumerate(taps(image.shape[1], width)):
        window = image[:, start : start + len(weights)].astype(np.int64)
        total = 2**21 + np.tensordot(window, weights, axes=(1, 0))
        result[:, output] = np.clip(total >> 22, 0, 255)
    return result


def rows_first(image: np.ndarray) -> np.ndarray:
    return along_rows(along_rows(image, 84).swapaxes(0, 1), 56).swapaxes(0, 1)


def columns_first(image: np.ndarray) -> np.ndarray:
    return along_rows(along_rows(image.swapaxes(0, 1), 56).swapaxes(0, 1), 84)


def noise(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)


@pytest.mark.parametrize("size", [(61, 90), (30, 40), (100, 300), (56, 40), (61, 84), (20, 500)])
def test_resizing_of_the_document_equals_pillow(size: tuple[int, int]) -> None:
    image = noise(size)
    np.testing.assert_array_equal(rows_first(image), resize(image, (56, 84)))


@pytest.mark.parametrize("size", [(84, 56), (201, 57), (58, 83)])
def test_pillow_may_resize_in_the_other_order(size: tuple[int, int]) -> None:
    image = noise(size)
    found = resize(image, (56, 84))
    orders = (rows_first(image), columns_first(image))
    assert any(np.array_equal(found, order) for order in orders)
