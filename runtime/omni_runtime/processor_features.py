"""Which vector instructions the processor has, asked of the system, without torch.

An empty answer means that the system does not tell, not that there are none.
"""

import ctypes
import platform
import re
import subprocess
import sys
from pathlib import Path

RELEVANT = {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm"}
"""Those that decide how fast a bundle is, under their Linux names."""

TARGETS = {"avx2": "avx2", "avx512_vnni": "avx512_vnni", "arm64": "asimd"}
"""What an export's --target needs."""

_WINDOWS = {"avx2": 40, "avx512f": 41, "asimd": 19, "asimddp": 43}
_MACOS = {
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.avx512vnni": "avx512_vnni",
    "hw.optional.AdvSIMD": "asimd",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
}


def found() -> set[str]:
    """Names of the processor's features, as Linux spells them."""
    if sys.platform == "win32":
        asks = ctypes.windll.kernel32.IsProcessorFeaturePresent
        return {name for name, number in _WINDOWS.items() if asks(number)}
    if sys.platform == "darwin":
        return _macos()
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return set()
    lines = re.findall(r"^(?:flags|Features)\s*: (.*)$", text, re.MULTILINE)
    return set(lines[0].split()) if lines else set()


def lacks(target: str) -> bool:
    """Whether a bundle made for `target` meets a processor that is known to lack it."""
    features = found()
    if platform.machine().lower() in ("arm64", "aarch64"):
        return target != "arm64"
    if target == "arm64":
        return True
    if sys.platform == "win32" and target == "avx512_vnni":  # Windows tells of AVX-512 only
        return "avx512f" not in features
    return bool(features) and TARGETS.get(target, target) not in features


def _macos() -> set[str]:
    done = subprocess.run(  # noqa: S603 - a program of the system, by its full path
        ["/usr/sbin/sysctl", *_MACOS], capture_output=True, text=True, check=False
    )
    pairs = (line.partition(": ") for line in done.stdout.splitlines())
    return {_MACOS[name] for name, _, value in pairs if value == "1" and name in _MACOS}
