"""What this machine and this process are: processor, memory, peak memory. On any system."""

import os
import platform
import re
import stat
import sys
from contextlib import suppress
from pathlib import Path

import platformdirs
import psutil

from omni_runtime.errors import OmniError

OTHER_CACHES = "set XDG_CACHE_HOME to a folder of your own that nobody else may write to"


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


def started() -> int:
    """When this machine was started, in seconds since 1970; some systems let it drift a little."""
    return int(psutil.boot_time())


def caches() -> Path:
    """Return the folder of what we keep for the user and can make again, created if it is missing.

    Libraries are loaded from there, so on POSIX nobody else may write to it or replace it: it is
    ours with mode 0700, and the folder that holds it is ours and writable by nobody else.

    Raises OmniError when there is no such folder, or it is not safe.
    """
    try:
        # A relative XDG_CACHE_HOME does not count, as the XDG specification says.
        folder = platformdirs.user_cache_path("pocket-omni", appauthor=False)
        if not folder.is_absolute():
            raise RuntimeError("there is no home folder")
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if sys.platform == "win32":  # the profile of a user is closed to others
            folder.mkdir(exist_ok=True)
        else:
            _make_private(folder)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OmniError(
            f"the folder for caches cannot be used: {reason}", fix=OTHER_CACHES
        ) from None
    return folder


def is_private(path: Path) -> bool:
    """Whether a file or folder, links not followed, is ours and nobody else may write to it."""
    if sys.platform == "win32":
        return True
    found = path.lstat()
    others = stat.S_IWGRP | stat.S_IWOTH
    return (
        found.st_uid == os.geteuid()
        and not stat.S_ISLNK(found.st_mode)
        and not found.st_mode & others
    )


def _make_private(folder: Path) -> None:
    """Create a folder of mode 0700, or tighten our own. Raises OmniError when it is not safe."""
    user, parent = os.geteuid(), folder.parent
    found = parent.stat()
    if found.st_uid != user:
        raise OmniError(f"{parent} belongs to another user: no caches there", fix=OTHER_CACHES)
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OmniError(
            f"other users may write to {parent}: no caches there", fix=f"chmod go-w {parent}"
        )
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise OmniError(f"{folder} is no folder: no caches there", fix=f"remove {folder}")
    if found.st_uid != user:
        raise OmniError(f"{folder} belongs to another user: no caches there", fix=OTHER_CACHES)
    if stat.S_IMODE(found.st_mode) != stat.S_IRWXU:
        folder.chmod(stat.S_IRWXU)  # `is_private` tells what others put there before


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
