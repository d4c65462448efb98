"""The runtime's kernels for the custom operators as a library for arm64 phones, compiled by zig.

zig has headers and a C++ runtime for musl, not for Android. Compiled for musl, the library contains
its C++ runtime and refers to C functions only, which Android's libc has under the same names
(native/bionic.cpp has the others). tests/android checks that each one exists on the oldest phone.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from omni_runtime.engine.kernels import SOURCES
from toolchain.parts import CACHE, KEPT, cached, part
from toolchain.process import run
from toolchain.project import ROOT

LIBRARY = "libpocket_omni.so"
NATIVE = ROOT / "native"
TARGET = ("-target", "aarch64-linux-musl", "-mcpu=generic+reserve_x18")
"""Android reserves register x18."""

FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-s")
LINKED = (
    f"-Wl,-soname,{LIBRARY}",
    f"-Wl,--version-script={NATIVE / 'exports.map'}",
    "-Wl,-z,max-page-size=16384",  # Android 15 has phones with pages of 16 KB
)


def zig(arguments: Sequence[str | Path]) -> None:
    """Run zig. What it compiles of its own runtime is kept in the cache. Raises OmniError."""
    program = part("zig") / "zig"
    program.chmod(0o755)
    folder = str(CACHE / "zig")
    environment: Mapping[str, str] = {
        "ZIG_GLOBAL_CACHE_DIR": folder,
        "ZIG_LOCAL_CACHE_DIR": folder,
    }
    run([program, *arguments], environment=environment)


def kernels() -> Path:
    """Compile the library, or return it from the cache. Raises OmniError."""
    sources = [*sorted(SOURCES.iterdir()), *sorted(NATIVE.iterdir())]
    key = hashlib.sha256(repr((TARGET, FLAGS, part("zig").name)).encode())
    for source in (*sources, Path(__file__)):
        key.update(source.read_bytes())

    def compile_library(new: Path) -> None:
        libdl = new / "libdl.so"
        zig(["cc", *TARGET, "-shared", "-nostdlib", "-Wl,-soname,libdl.so", "-o", libdl,
             NATIVE / "libdl.c"])  # fmt: skip
        zig(["c++", *TARGET, *FLAGS, *LINKED, "-o", new / LIBRARY, SOURCES / "library.cpp",
             NATIVE / "bionic.cpp", libdl])  # fmt: skip
        libdl.unlink()

    return cached(CACHE / "kernels" / key.hexdigest()[:16], compile_library, keep=KEPT) / LIBRARY
