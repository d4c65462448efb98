"""The command that an export prints at its end can be pasted into a shell."""

import shlex
import sys
from pathlib import Path

import pytest

from omni_export.cli import run_line


@pytest.mark.skipif(sys.platform == "win32", reason="quotes for a POSIX shell")
@pytest.mark.parametrize("name", ["plain", "my bundles/a", "it's $HOME; `x`"])
def test_paths_are_quoted(name: str) -> None:
    bundle = Path(name)
    assert shlex.split(run_line(bundle, speaks=False)) == ["omni", "run", name, "Hello"]
    spoken = ["omni", "run", name, "Hello", "-o", "answer.wav"]
    assert shlex.split(run_line(bundle, speaks=True)) == spoken
