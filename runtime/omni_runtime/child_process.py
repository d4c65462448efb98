"""Run a module of this package in a new process: to isolate its memory, or to time a cold start."""

import os
import subprocess
import sys
from collections.abc import Sequence

from omni_runtime.errors import OmniError


def run_module(
    module: str,
    arguments: Sequence[str],
    *,
    failure: str,
    fix: str,
    code: str | None = None,
    timeout: float | None = None,
) -> str:
    """Run `python -m module` with this process's import path; return its standard output.

    Raises OmniError with `failure`, the last line of its standard error, `fix` and `code` when it
    fails, and subprocess.TimeoutExpired after `timeout` seconds.
    """
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=timeout,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONIOENCODING": "utf-8"},
    )
    if done.returncode != 0:
        reason = (done.stderr.strip() or "no message").splitlines()[-1]
        raise OmniError(f"{failure}: {reason}", fix=fix, code=code)
    return done.stdout
