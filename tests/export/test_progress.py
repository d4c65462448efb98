"""The progress of an export: how much is left is estimated from the part that is being written."""

import pytest

from omni_export import progress
from omni_export.cli import progress_line
from omni_export.progress import Progress, ProgressMeter


def test_the_time_left_follows_the_speed_of_the_part(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress, "perf_counter", lambda: now)
    lines: list[str] = []

    def report(one: Progress) -> None:
        lines.append(progress_line(one))

    meter = ProgressMeter(report)
    meter.expect(2, 2**30)
    meter.begin("audio_encoder")
    now = 0.5
    meter.advance(2**27)
    now = 2.0
    meter.advance(2**27)
    meter.begin("thinker")
    now = 42.0
    meter.advance(2**27)
    assert lines == [
        "[1/2] audio encoder · 0 KB of 4.0 GB of weights",
        "[1/2] audio encoder · 512.0 MB of 4.0 GB of weights",
        "[1/2] audio encoder · 1.0 GB of 4.0 GB of weights · about 6 s left",
        "[2/2] thinker · 1.0 GB of 4.0 GB of weights",
        "[2/2] thinker · 1.5 GB of 4.0 GB of weights · about 3 min left",
    ]
