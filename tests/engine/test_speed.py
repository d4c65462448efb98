"""Selection of a preset in real time, and the measurement of the machine."""

from itertools import count

import numpy as np
import pytest

from omni_runtime.engine.speed import REALTIME_MARGIN, SynthesisSpeed, trial

PASSES = {"fast": 5, "faithful": 72, "balanced": 16}


def machine(speed: float, codes: float = 0.2, vocoder: float = 0.1) -> SynthesisSpeed:
    """Return a speed of `speed` with 16 passes; `codes` and `vocoder` are shares of the time."""
    work = 1 / speed
    return SynthesisSpeed(codes * work, (1 - codes - vocoder) * work / 16, vocoder * work)


@pytest.mark.parametrize(
    ("speed", "wanted"),
    [(5, "faithful"), (4.1, "balanced"), (1.3, "balanced"), (1.1, "fast"), (0.4, "fast")],
)
def test_the_best_real_time_preset_is_selected(speed: float, wanted: str) -> None:
    found = machine(speed)
    assert found.realtime(16) == pytest.approx(speed)
    assert found.affordable(PASSES) == wanted
    better = [name for name in PASSES if PASSES[name] > PASSES[wanted]]
    assert all(found.realtime(PASSES[name]) < REALTIME_MARGIN for name in better)


def test_a_slow_talker_selects_the_cheapest_preset() -> None:
    """No preset helps if the codes alone are slower than real time."""
    assert SynthesisSpeed(codes=1.5, evaluation=0.0, vocoder=0.0).affordable(PASSES) == "fast"


def test_a_trial_measures_all_parts(default_twin) -> None:
    """The clock advances a second per call, so both runs of each part take one second."""
    model = default_twin.model
    voice = np.asarray(model.bundle.voice("Ethan"), np.float32)
    dits, ticks = [model.dit(name) for name in ("fast", "faithful")], count()
    fast, faithful = (
        trial(model.talker, dit, model.vocoder, voice, lambda: float(next(ticks))) for dit in dits
    )
    assert fast == faithful, "one pass is the same, whatever preset it was taken from"
    assert fast.codes == pytest.approx(50 / 8)  # eight codes in a second
    assert fast.evaluation == pytest.approx(1 / 2 / 0.48 * 9 / 8)  # two branches, 48 frames
    assert fast.vocoder > 1 / 0.48
