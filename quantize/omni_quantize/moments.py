"""Second moments of a matrix's inputs: how an error of one weight is made up for by others.

The mean squares weigh the search of scales and levels. The factors carry the rounding error of each
input on to the inputs that follow (GPTQ, https://arxiv.org/abs/2210.17323).
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from omni_runtime.arrays import FloatArray

SEGMENT = 4096
"""Most inputs between which errors are carried: bounds the memory of a factor to 64 MiB, twice."""
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
    moments = inputs.T @ inputs / np.float32(len(inputs))
    mean_squares = moments.diagonal()
    unused = 1e-6 * float(mean_squares.mean()) or 1.0  # inputs that are zero throughout the text
    moments[np.diag_indices_from(moments)] += DAMPING * mean_squares + unused
    lower = np.linalg.cholesky(moments[::-1, ::-1])  # of the inputs in reverse order
    upper: FloatArray = np.triu(np.linalg.inv(lower[::-1, ::-1])).astype(np.float32)
    return upper
