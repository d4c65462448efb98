"""Detect the vector instructions of the processor from the operating system.

An empty set means that they are unknown, not that there are none.
"""

import ctypes
import platform
import re
import subprocess
import sys
from pathlib import Path

RELEVANT = {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm"}
"""Features that determine the speed of a bundle, by their Linux names."""

TARGETS = {"avx2": "avx2", "avx512_vnni": "avx512_vnni", "arm64": "asimd"}
"""Feature that each --target of the export requires."""

_WINDOWS = {"avx2": 40, "avx512f": 41, "asimd": 19, "asimddp": 43, "i8mm": 66}
_MACOS = {
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.avx512vnni": "avx512_vnni",
    "hw.optional.AdvSIMD": "asimd",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
}


def detect() -> set[str]:
    """Return the features of the processor, by their Linux names."""
    if sys.platform == "win32":
        is_present = ctypes.windll.kernel32.IsProcessorFeaturePresent
        return {name for name, number in _WINDOWS.items() if is_present(number)}
    if sys.platform == "darwin":
        return _macos()
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return set()
    lines = re.findall(r"^(?:flags|Features)\s*: (.*)$", text, re.MULTILINE)
    return set(lines[0].split()) if lines else set()


def is_missing(target: str) -> bool:
    """Return whether the processor is known to lack the feature that `target` requires."""
    features = detect()
    if platform.machine().lower() in ("arm64", "aarch64"):
        return target != "arm64"
    if target == "arm64":
        return True
    if sys.platform == "win32" and target == "avx512_vnni":  # Windows reports AVX-512, not VNNI
        return "avx512f" not in features
    return bool(features) and TARGETS.get(target, target) not in features


def _macos() -> set[str]:
    done = subprocess.run(  # noqa: S603 - a system program with its full path
        ["/usr/sbin/sysctl", *_MACOS], capture_output=True, text=True, check=False
    )
    pairs = (line.partition(": ") for line in done.stdout.splitlines())
    return {_MACOS[name] for name, _, value in pairs if value == "1" and name in _MACOS}
