"""Hostile calls of the kernels, with sanitizers."""

import subprocess
import sys
from pathlib import Path

import pytest

from omni_runtime.engine.kernels import build

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.skipif(
    not build().library or sys.platform != "linux", reason=build().problem or "needs libasan"
)
def test_hostile_shapes_are_refused() -> None:
    """A minute's worth of `python -m tests.trust.kernels --sanitize`."""
    command = [sys.executable, "-m", "tests.trust.kernels", "--runs", "150", "--sanitize"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "'valid, refused'" not in done.stdout and "'valid, ran'" in done.stdout, done.stdout
