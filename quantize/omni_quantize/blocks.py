"""Symmetric 4-bit blocks: one scale per block, and a search for the scales and integers.

A weight is a scale times one of 16 integers, the *levels*: -8 ... 7, or levels that lie closer
together near zero, where most weights are (as IQ4_NL of llama.cpp and NF4 of QLoRA have). The
search minimizes the squared error of the weights. With the second moments of the layer's inputs it
minimizes that of the layer's outputs: inputs are weighed, and errors carried on to later inputs.
"""

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import torch

from omni_quantize.moments import Moments
from omni_quantize.recipe import REACH
from omni_quantize.weight_stream import Parts
from omni_runtime.arrays import FloatArray

UNIFORM = tuple(range(-8, 8))
UNIFORM_SHARES = (1.0, 0.9)
SHARES = (1.0, 0.9, 0.8)
"""Initial scales of the search, relative to the one that reaches the largest weight of a block."""
CARRIED_AT_ONCE = 256
"""Rows whose errors are carried on to all later rows in one product."""


def quantize(
    values: FloatArray,
    size: int,
    levels: Sequence[int] = UNIFORM,
    moments: Moments | None = None,
) -> Parts:
    """Quantize columns, float32 (inner, columns), in blocks of `size` rows.

    `moments` are those of the inputs; None weighs all alike. Returns `packed`, uint8 (columns,
    blocks, size / 2) with the index of an even row in the low nibble, and `scales`, float32
    (columns, blocks) with values of float16.
    """
    if moments is not None and moments.factors:
        found = [*_carrying(np.array(values, order="C"), size, levels, moments)]
        indices = np.stack([indices for indices, _ in found], 1)
        scales = np.stack([scale for _, scale in found], 1)
    else:
        search = _searched(values, size, levels, None if moments is None else moments.mean_squares)
        indices, scales = search.indices(), search.scales
    return {"packed": indices[..., ::2] | indices[..., 1::2] << 4, "scales": scales}


def _searched(
    values: FloatArray, size: int, levels: Sequence[int], importance: FloatArray | None
) -> "_Search":
    search = _Search(values, size, tuple(levels), importance)
    uniform = tuple(levels) == UNIFORM
    ends = levels[:1] if uniform else (levels[0], levels[-1])
    for end in ends:
        for share in UNIFORM_SHARES if uniform else SHARES:
            search.attempt(share / end)
    return search


def _carrying(
    values: FloatArray, size: int, levels: Sequence[int], moments: Moments
) -> Iterator[tuple[np.ndarray, FloatArray]]:
    """Yield indices (columns, size) and scales (columns,) of each block.

    Errors are carried on to rows of `values` that follow in the same segment.
    """
    columns = values.shape[1]
    group = max(size, CARRIED_AT_ONCE)
    first = 0
    for factor in moments.factors:
        segment = values[first : first + len(factor)]
        importance = moments.mean_squares[first : first + len(factor)]
        for begin in range(0, len(segment), group):
            end = min(begin + group, len(segment))
            errors = np.empty((end - begin, columns), np.float32)
            for start in range(begin, end, size):
                stop = min(start + size, end)
                search = _searched(segment[start:stop], size, levels, importance[start:stop])
                indices, found = search.round_in_order(
                    segment[start:stop], factor[start:stop, start:stop]
                )
                errors[start - begin : stop - begin] = found
                _carry(found, factor[start:stop, stop:end], segment[stop:end])
                yield indices, search.scales[:, 0]
            _carry(errors, factor[begin:end, end:], segment[end:])
        first += len(factor)


def _carry(errors: FloatArray, factor: FloatArray, to: FloatArray) -> None:
    """Subtract factor^T errors from rows that follow, in place."""
    rows = torch.from_numpy(to)
    rows.addmm_(torch.from_numpy(factor).T, torch.from_numpy(errors), alpha=-1)


class _Search:
    """The best scales so far, (columns, blocks), for blocks (columns, blocks, size)."""

    def __init__(
        self,
        values: FloatArray,
        size: int,
        levels: tuple[int, ...],
        importance: FloatArray | None,
    ) -> None:
        padding = -len(values) % size
        rows = np.pad(np.ascontiguousarray(values.T), ((0, 0), (0, padding)))
        self._blocks = rows.reshape(len(rows), -1, size)
        self._rounding, self._level_at = _rounding(levels)
        weights = np.ones(len(values)) if importance is None else importance
        weights = np.pad(np.asarray(weights, np.float32), (0, padding))
        self._weights = weights.reshape(1, -1, size)
        largest = np.abs(self._blocks).argmax(-1)[..., None]
        self._peaks = np.take_along_axis(self._blocks, largest, -1)[..., 0]
        shape = self._peaks.shape
        self.scales = np.zeros(shape, np.float32)
        self._least = np.full(shape, np.inf, np.float32)

    def attempt(self, share: float) -> None:
        """Round with `share` times the peaks as scales, fit the scales, and round once more."""
        rounded = self._level_at[self._places(self._peaks * np.float32(share))]
        weighted = rounded * self._weights
        energy = _sums(weighted, rounded)
        scale = _sums(weighted, self._blocks) / np.where(energy == 0, np.float32(1), energy)
        scale = scale.astype(np.float16).astype(np.float32)
        difference = self._level_at[self._places(scale)]
        difference *= scale[..., None]
        difference -= self._blocks
        error = _sums(difference * self._weights, difference)
        better = error < self._least
        np.copyto(self.scales, scale, where=better)
        np.copyto(self._least, error, where=better)

    def indices(self) -> np.ndarray:
        """Return the indices of the nearest levels at the best scales, (columns, blocks, size)."""
        return self._rounding[self._places(self.scales)]

    def round_in_order(self, rows: FloatArray, factor: FloatArray) -> tuple[np.ndarray, FloatArray]:
        """Round the rows of the only block, (rows, columns), one after the other.

        The error of a row changes the rows that follow. Returns the indices, uint8 (columns, size),
        and the errors, as the rows of further blocks need them. `factor` (rows, rows) is the
        block's part of a factor of the moments.
        """
        scale = self.scales[:, 0]
        twice = _inverse(scale) * 2
        indices = np.zeros(self._blocks[:, 0].shape, np.uint8)
        errors = np.empty_like(rows)
        for n, row in enumerate(rows):
            places = _place(row * twice)
            indices[:, n] = self._rounding[places]
            errors[n] = (row - self._level_at[places] * scale) / factor[n, n]
            rows[n + 1 :] -= factor[n, n + 1 :, None] * errors[n]
        return indices, errors

    def _places(self, scale: FloatArray) -> np.ndarray:
        """Return the place of each weight in units of its scale."""
        return _place(self._blocks * (_inverse(scale) * 2)[..., None])


def _inverse(scale: FloatArray) -> FloatArray:
    return np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)


def _place(doubled: FloatArray) -> np.ndarray:
    """Return the place in `_rounding` of half of each value, which is overwritten."""
    doubled += 2 * REACH
    np.clip(doubled, 0, 4 * REACH - 1, out=doubled)
    return doubled.astype(np.uint8)


@cache
def _rounding(levels: tuple[int, ...]) -> tuple[np.ndarray, FloatArray]:
    """Return the index of the nearest level of each half unit, and that level.

    Levels are integers, so that is exact.
    """
    places = (np.arange(4 * REACH) + 0.5) / 2 - REACH
    known = np.asarray(levels, np.float32)
    indices = np.abs(places[:, None] - known[None]).argmin(1).astype(np.uint8)
    return indices, known[indices]


def _sums(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return the sum of products over each block."""
    sums: FloatArray = np.einsum("cbs,cbs->cb", a, b)
    return sums
