"""All solvers with guidance on all, some and no evaluations: cost and accuracy."""

import math

import numpy as np
import pytest

from omni_runtime.bundle.config import SolverPreset
from omni_runtime.engine.solver import branches, evaluation_times, evaluations, integrate, nfe

EVALUATIONS = {"euler": 1, "midpoint": 2, "rk4": 4}
"""In one step."""


def preset(solver: str, steps: int, guided: int = 0) -> SolverPreset:
    return SolverPreset(
        solver=solver, steps=steps, sway=-1.0, guidance=0.5, guided=guided, summary=""
    )


@pytest.mark.parametrize("solver", EVALUATIONS)
def test_evaluations_are_counted(solver: str) -> None:
    count = 6 * EVALUATIONS[solver]
    for guided in (0, 1, 5, count):
        made = preset(solver, 6, guided)
        assert evaluations(made) == len(evaluation_times(made)) == count
        assert branches(made) == [2] * guided + [1] * (count - guided)
        assert nfe(made) == count + guided


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_order_of_convergence(solver: str, order: int) -> None:
    """For y' = cos(6 t) y. Evaluations are requested in order of time."""

    def error(steps: int) -> float:
        made = preset(solver, steps)
        times, asked = evaluation_times(made).astype(np.float64), []

        def velocity(index: int, state: np.ndarray) -> np.ndarray:
            asked.append(index)
            return np.cos(6 * times[index]) * state

        found = integrate(made, np.ones((1, 1)), velocity)
        assert asked == list(range(evaluations(made)))
        return abs(float(found[0, 0]) - math.exp(math.sin(6) / 6))

    coarse, fine = error(8), error(16)
    assert coarse / fine > 0.75 * 2**order
