"""What this machine and this process are: processor, memory, peak memory. On any system."""

import os
import platform
import re
import sys
from pathlib import Path

import psutil


def peak_memory() -> int:
    """Bytes of the largest resident set so far; the present size where no peak is kept."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)  # pyright: ignore
    if found := _linux_value("/proc/self/status", r"VmHWM:\s*(\d+) kB"):
        return int(found) * 1024  # unlike ru_maxrss, not inherited from whoever started us
    import resource  # noqa: PLC0415 - there is none on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def total_memory() -> int:
    """Bytes of memory in this machine, or in the container that we run in."""
    total = psutil.virtual_memory().total
    limit = _linux_value("/sys/fs/cgroup/memory.max", r"(\d+)")
    return min(total, int(limit)) if limit else total


def available_memory() -> int:
    """Bytes that could be had without swapping."""
    return min(psutil.virtual_memory().available, total_memory())


def processor() -> str:
    """The processor's name, or its architecture where the system does not tell."""
    name = _linux_value("/proc/cpuinfo", r"model name\s*: (.*)")
    return name or platform.processor() or platform.machine()


def caches() -> Path:
    """The folder of what we keep for the user and can make again; it need not exist.

    Raises RuntimeError where there is no home.
    """
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "pocket-omni"


def describe() -> str:
    """System, processor and memory in one line."""
    gib = total_memory() / 2**30
    return f"{platform.system()} {platform.machine()}, {processor()}, {gib:.0f} GiB"


def _linux_value(path: str, pattern: str) -> str | None:
    try:
        found = re.search(pattern, Path(path).read_text("utf-8"))
    except OSError:
        return None
    return found.group(1) if found else None
