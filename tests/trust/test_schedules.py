"""A few of the random schedules of `python -m tests.trust.schedules`."""

from functools import cache

from tests.trust.schedules import alone, calls, check

from conftest import Twin


def test_conversations_on_several_threads_are_what_they_are_alone(default_twin: Twin) -> None:
    model = default_twin.model
    expected = cache(lambda script: alone(model, script))
    for seed in range(12):
        assert not check(model, seed, expected)
    assert "call 0" in check(model, 0, lambda script: [None] * len(calls(script)))
