"""The examples of the README run."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omni_runtime.cli.main import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("document", ["README.md", "docs/python.md"])
def test_python_examples(
    export_trained: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    document: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "tiny-int4").symlink_to(export_trained("int4"))
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save("a.png")
    text = (ROOT / document).read_text("utf-8")
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(code, document, "exec"), names)
        assert set(re.findall(r"^from (\S+) import", code, re.MULTILINE)) <= {"omni_runtime"}
    assert capsys.readouterr().out


def test_commands_parse() -> None:
    """Every `omni run` line of the README has valid flags."""
    from omni_runtime.cli.flags import parser  # noqa: PLC0415

    lines = re.findall(r"^omni (run .*?[^\\])$", README, re.DOTALL | re.MULTILINE)
    assert lines
    for line in lines:
        options = parser().parse_args(shlex.split(line.replace("\\\n", " ")))
        assert options.command == "run"
    assert main(["run", "--help"]) == 0
