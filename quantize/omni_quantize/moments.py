"""Second moments of a matrix's inputs: how an error of one weight is made up for by others.

The mean squares weigh the search of scales and levels. The factors carry the rounding error of each
input on to the inputs that follow (GPTQ, https://arxiv.org/abs/2210.17323).
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from omni_runtime.arrays import FloatArray

SEGMENT = 4096
"""Most inputs between which errors are carried: bounds the memory of a factor to 64 MiB, twice."""
TILE = 1024
"""Rows of the moments that are computed at once."""
DAMPING = 1.0
"""Share of its mean square that is added to each input's: correlations count half. A text of a few
thousand tokens says little about those of thousands of inputs: on SmolLM2 0.1 does harm."""


@dataclass(frozen=True)
class Moments:
    """`mean_squares` float32 (inner,), and upper triangular `factors` U of successive segments.

    U^T U is the inverse of the damped second moments, float32 (segment, segment). Without factors
    no error is carried on.
    """

    mean_squares: FloatArray
    factors: tuple[FloatArray, ...] = ()

    @classmethod
    def of(cls, inputs: FloatArray) -> Self:
        """Measure on inputs, float32 (tokens, inner)."""
        parts = np.split(inputs, range(SEGMENT, inputs.shape[1], SEGMENT), axis=1)
        return cls(np.square(inputs).mean(0), tuple(map(_factor, parts)))


def _factor(inputs: FloatArray) -> FloatArray:
    """Return U. With R R^T the moments, R upper triangular, it is the inverse of R."""
    moments = _upper_half(torch.from_numpy(inputs))
    mean_squares = moments.diagonal().clone()
    unused = 1e-6 * float(mean_squares.mean()) or 1.0  # inputs that are zero throughout the text
    moments.diagonal().add_(DAMPING * mean_squares + unused)
    lower = torch.linalg.cholesky(moments.flip(0, 1))  # of the inputs in reverse order
    inverse = torch.linalg.solve_triangular(lower, torch.eye(len(lower)), upper=False)
    return inverse.tril_().flip(0, 1).numpy()


def _upper_half(inputs: torch.Tensor) -> torch.Tensor:
    """Return the second moments, (inner, inner); a Cholesky factor does not need the lower half."""
    inner = inputs.shape[1]
    moments = torch.zeros(inner, inner)
    for start in range(0, inner, TILE):
        rows = slice(start, start + TILE)
        moments[rows, start:] = inputs[:, rows].T @ inputs[:, start:]
    return moments.div_(len(inputs))
