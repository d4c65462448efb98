"""Properties of the machine and the process: processor, memory, peak memory, cache folder."""

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

SET_CACHE_HOME = "set XDG_CACHE_HOME to a folder that only you may write to"


def peak_memory() -> int:
    """Return the peak resident set size of this process, in bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)  # pyright: ignore
    if kib := _linux_value("/proc/self/status", r"VmHWM:\s*(\d+) kB"):
        return int(kib) * 1024  # unlike ru_maxrss, not inherited from the parent process
    import resource  # noqa: PLC0415 - not available on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def total_memory() -> int:
    """Return the memory of the machine, or the limit of its container, in bytes."""
    total = psutil.virtual_memory().total
    limit = _linux_value("/sys/fs/cgroup/memory.max", r"(\d+)")
    return min(total, int(limit)) if limit else total


def available_memory() -> int:
    """Return the memory available without swapping, in bytes."""
    return min(psutil.virtual_memory().available, total_memory())


def processor() -> str:
    """Return the name of the processor, or its architecture if the name is unknown."""
    name = _linux_value("/proc/cpuinfo", r"model name\s*: (.*)")
    return name or platform.processor() or platform.machine()


def boot_time() -> int:
    """Return the boot time in seconds since 1970. It drifts slightly on some systems."""
    return int(psutil.boot_time())


def cache_folder() -> Path:
    """Return the cache folder of the user; create it if it is missing.

    Native libraries are loaded from this folder, so no other user may write to it. On POSIX the
    folder must belong to the user with mode 0700. Its parent must belong to the user and not be
    writable by others.

    Raises OmniError when the folder cannot be created or is not safe.
    """
    try:
        # The XDG specification requires that a relative XDG_CACHE_HOME is ignored.
        folder = platformdirs.user_cache_path("pocket-omni", appauthor=False)
        if not folder.is_absolute():
            raise RuntimeError("there is no home folder")
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if sys.platform == "win32":  # other users have no access to a profile
            folder.mkdir(exist_ok=True)
        else:
            _make_private(folder)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OmniError(f"the cache folder cannot be used: {reason}", fix=SET_CACHE_HOME) from None
    return folder


def is_private(path: Path) -> bool:
    """Return whether a path belongs to the user, is not a link, and is writable by nobody else."""
    if sys.platform == "win32":
        return True
    status = path.lstat()
    others = stat.S_IWGRP | stat.S_IWOTH
    return (
        status.st_uid == os.geteuid()
        and not stat.S_ISLNK(status.st_mode)
        and not status.st_mode & others
    )


def _make_private(folder: Path) -> None:
    """Create a folder of mode 0700, or set that mode. Raises OmniError when it is not safe."""
    user, parent = os.geteuid(), folder.parent
    status = parent.stat()
    if status.st_uid != user:
        raise OmniError(
            f"{parent} belongs to another user, so nothing is cached", fix=SET_CACHE_HOME
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OmniError(
            f"other users may write to {parent}, so nothing is cached", fix=f"chmod go-w {parent}"
        )
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise OmniError(f"{folder} is not a folder, so nothing is cached", fix=f"remove {folder}")
    if status.st_uid != user:
        raise OmniError(
            f"{folder} belongs to another user, so nothing is cached", fix=SET_CACHE_HOME
        )
    if stat.S_IMODE(status.st_mode) != stat.S_IRWXU:
        folder.chmod(stat.S_IRWXU)  # `is_private` rejects files that others wrote before


def describe() -> str:
    """Return the system, processor and memory in one line."""
    gib = total_memory() / 2**30
    return f"{platform.system()} {platform.machine()}, {processor()}, {gib:.0f} GiB"


def _linux_value(path: str, pattern: str) -> str | None:
    try:
        match = re.search(pattern, Path(path).read_text("utf-8"))
    except OSError:
        return None
    return match.group(1) if match else None
