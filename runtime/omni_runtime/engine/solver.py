"""Integrate the DiT's flow from noise (t = 0) to mel (t = 1): time grids and solvers.

A solver requests velocities by the index of the evaluation, because modulation and cached left
context belong to one evaluation. The export computes the time modulation for exactly these points.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from omni_runtime.bundle.config import SolverPreset
from omni_runtime.rotary import cos_sin

Array = npt.NDArray[Any]
"""float32 throughout; numpy's annotations lose it in mixed arithmetic."""
Velocity = Callable[[int, Array], Array]
"""(index of the evaluation, state) -> velocity, both float32 (frames, mel_dim)."""

THIRD = np.float32(1 / 3)
HALF = np.float32(1 / 2)


def time_grid(preset: SolverPreset) -> Array:
    """Return the time points of the solver, float32 (steps + 1,), from 0 to 1.

    Sway sampling (F5-TTS, arXiv 2410.06885): t + sway (cos(pi t / 2) - 1 + t).
    """
    even = np.linspace(0, 1, preset.steps + 1, dtype=np.float32)
    swayed = cos_sin(np.float32(np.pi / 2) * even)[0] - np.float32(1) + even
    return even + np.float32(preset.sway) * swayed


def evaluation_times(preset: SolverPreset) -> Array:
    """Return the time of each evaluation in the order of the solver, float32 (evaluations,)."""
    grid = time_grid(preset)
    starts, steps, ends = grid[:-1], np.diff(grid), grid[1:]
    by_solver = {
        "euler": [starts],
        "midpoint": [starts, starts + steps * HALF],
        "rk4": [starts, starts + steps * THIRD, starts + steps * np.float32(2 / 3), ends],
    }
    return np.stack(by_solver[preset.solver], axis=1).reshape(-1)


def evaluations(preset: SolverPreset) -> int:
    """Return the number of evaluations of a preset's solver."""
    return len(evaluation_times(preset))


def branches(preset: SolverPreset) -> list[int]:
    """Return the batch size of each evaluation: 2 with classifier-free guidance, otherwise 1."""
    return [2 if index < preset.guided else 1 for index in range(evaluations(preset))]


def nfe(preset: SolverPreset) -> int:
    """Return the number of function evaluations, where a guided one counts as two."""
    return sum(branches(preset))


def integrate(preset: SolverPreset, noise: Array, velocity: Velocity) -> Array:
    """Integrate from `noise` (frames, mel_dim) to t = 1."""
    grid = time_grid(preset)
    step = {"euler": _euler, "midpoint": _midpoint, "rk4": _rk4}[preset.solver]
    state, index = noise, 0
    for width in np.diff(grid):
        state, index = step(state, width, velocity, index)
    return state


def _euler(state: Array, width: np.float32, velocity: Velocity, index: int) -> tuple[Array, int]:
    return state + width * velocity(index, state), index + 1


def _midpoint(state: Array, width: np.float32, velocity: Velocity, index: int) -> tuple[Array, int]:
    half = state + width * HALF * velocity(index, state)
    return state + width * velocity(index + 1, half), index + 2


def _rk4(state: Array, width: np.float32, velocity: Velocity, index: int) -> tuple[Array, int]:
    """Kutta's 3/8 rule, the reference's solver."""
    k1 = velocity(index, state)
    k2 = velocity(index + 1, state + width * k1 * THIRD)
    k3 = velocity(index + 2, state + width * (k2 - k1 * THIRD))
    k4 = velocity(index + 3, state + width * (k1 - k2 + k3))
    return state + (k1 + np.float32(3) * (k2 + k3) + k4) * width / np.float32(8), index + 4
