"""The process's largest resident memory so far, on any system."""

import sys

import psutil


def peak_memory() -> int:
    """Bytes of the largest resident set. Where the system keeps no peak, the present size."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)  # pyright: ignore
    import resource  # noqa: PLC0415 - there is none on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
