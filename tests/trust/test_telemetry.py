"""Nothing is sent: no telemetry of ONNX Runtime, the Hugging Face hub or transformers.

The effects are looked for in a process with an empty home: files below it, and (with strace) any
socket of the internet. Each test runs its own negative control, without our variables.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOTS = [ROOT / "runtime", ROOT / "quantize", ROOT / "export", ROOT]
OURS = "import omni_runtime; "
FORGET = "import os; [os.environ.pop(name) for name in omni_runtime.NO_TELEMETRY]; "
LIBRARY = re.compile(r"^\s*(?:import|from) (?:onnxruntime|huggingface_hub|transformers)\b", re.M)
SECONDS = 12
"""ONNX Runtime resolves its telemetry host nine seconds after it was loaded."""


def environment(home: Path) -> dict[str, str]:
    """Return an environment with an empty home and without our variables."""
    home.mkdir()
    names = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    folders = {name: str(home) for name in ("HOME", "USERPROFILE", "LOCALAPPDATA", "APPDATA")}
    path = os.pathsep.join(str(root) for root in ROOTS)
    return kept | folders | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def files_after(code: str, home: Path) -> list[str]:
    """Return the files in the home of a process that ran `code`."""
    subprocess.run([sys.executable, "-c", code], check=True, env=environment(home), timeout=120)
    return [path.name for path in home.rglob("*") if path.is_file()]


def sockets_after(code: str, home: Path) -> list[str]:
    """Return the connections and packets of a process that ran `code`, traced by strace."""
    trace = home.with_suffix(".trace")
    command = ["strace", "-f", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", str(trace)]
    command += [sys.executable, "-c", code]
    subprocess.run(command, check=True, env=environment(home), timeout=120)
    lines = trace.read_text("utf-8", "replace").splitlines()
    return [line for line in lines if "AF_INET" in line or "events" in line]


@pytest.mark.parametrize("package", ["omni_runtime", "omni_quantize", "omni_export", "tiny"])
def test_each_package_turns_telemetry_off_for_child_processes(package: str, tmp_path: Path) -> None:
    child = "import os; assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'"
    code = (
        f"import {package}; import subprocess, sys; "
        f"subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    )
    assert not files_after(code, tmp_path / "home")


def test_libraries_with_telemetry_are_imported_only_in_these_packages() -> None:
    found = 0
    for root, packages in zip(
        ROOTS, (["omni_runtime"], ["omni_quantize"], ["omni_export"], ["tiny"]), strict=True
    ):
        for path in root.rglob("*.py"):
            inside = path.relative_to(root).parts
            if inside[0] in ("tests", "runtime", "quantize", "export") or inside[0][0] == ".":
                continue
            if LIBRARY.search(path.read_text("utf-8")):
                found += 1
                assert inside[0] in packages, path
    assert found > 20


@pytest.mark.skipif(sys.platform != "linux", reason="the folders are those of Linux")
def test_onnxruntime_stores_no_device_id(tmp_path: Path) -> None:
    load = "import onnxruntime"
    assert not files_after(OURS + load, tmp_path / "ours")
    assert "deviceid" in files_after(OURS + FORGET + load, tmp_path / "control")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_nothing_is_sent(tmp_path: Path) -> None:
    code = (
        "import time, onnxruntime, huggingface_hub, transformers; "
        "from huggingface_hub.utils import send_telemetry; send_telemetry('test'); "
        f"time.sleep({SECONDS})"
    )
    assert not sockets_after(OURS + code, tmp_path / "ours")
    assert sockets_after(OURS + FORGET + code, tmp_path / "control")
