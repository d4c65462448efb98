"""Sampling: a chain of pure functions over logits, and one seeded random choice at its end.

Order and meaning of the functions are those of transformers' logits processors.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from omni_runtime.arrays import FloatArray, IntArray
from omni_runtime.errors import UsageError


@dataclass(frozen=True)
class Sampling:
    """Sampling settings. A temperature of 0 is greedy.

    Raises UsageError for values out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges; comparisons with NaN are False."""
        in_range = (
            0 <= self.temperature < math.inf
            and self.top_k >= 0
            and 0 < self.top_p <= 1
            and 0 < self.repetition_penalty < math.inf
        )
        if not in_range:
            raise UsageError(
                f"a value of {self} is out of range",
                fix="temperature >= 0, top_k >= 0, 0 < top_p <= 1, repetition_penalty > 0",
            )


GREEDY = Sampling()


def penalize_repetition(logits: FloatArray, seen: Iterable[int], penalty: float) -> FloatArray:
    """Penalize tokens seen before: divide positive logits, multiply negative ones (1909.05858)."""
    ids = np.fromiter(set(seen), np.int64)
    if penalty == 1.0 or not ids.size:
        return logits
    logits = logits.copy()
    score = logits[ids]
    logits[ids] = np.where(score < 0, score * penalty, score / penalty)
    return logits


def suppress(logits: FloatArray, banned: IntArray) -> FloatArray:
    """Set the logits of the tokens `banned` to minus infinity."""
    logits = logits.copy()
    logits[banned] = -np.inf
    return logits


def keep_top_k(logits: FloatArray, k: int) -> FloatArray:
    """Keep the k largest logits and ties with the k-th; k <= 0 keeps all."""
    if k <= 0 or k >= len(logits):
        return logits
    kth = np.partition(logits, -k)[-k]
    return np.where(logits < kth, -np.inf, logits)


def keep_top_p(logits: FloatArray, p: float) -> FloatArray:
    """Keep the smallest set of most likely tokens with a total probability of at least p."""
    if p >= 1.0:
        return logits
    order = np.argsort(logits, kind="stable")
    cumulative = np.cumsum(softmax(logits[order]))
    remove = order[:-1][cumulative[:-1] <= 1 - p]
    return suppress(logits, remove)


def softmax(logits: FloatArray) -> npt.NDArray[np.float64]:
    """Return probabilities, float64 (vocabulary,)."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    return exponentials / exponentials.sum()


def sample(
    logits: FloatArray, settings: Sampling, seen: Iterable[int], random: np.random.Generator
) -> int:
    """Sample a token id from logits (vocabulary,)."""
    logits = penalize_repetition(logits, seen, settings.repetition_penalty)
    if settings.temperature <= 0:
        return int(logits.argmax())
    logits = keep_top_k(logits / np.float32(settings.temperature), settings.top_k)
    probabilities = softmax(keep_top_p(logits, settings.top_p))
    return int(random.choice(len(probabilities), p=probabilities))
