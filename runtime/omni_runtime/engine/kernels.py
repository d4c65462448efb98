"""Native kernels for the custom operators (domain `pocket_omni`), compiled on the user's machine.

A custom operator is a function of ONNX operators in the graph. Compiled kernels run in its place
and are faster; without them ONNX Runtime inlines the function. Kernels equal their functions up to
rounding, except IntegerMatMul, which quantizes rows in blocks (native/integer_matmul.h).

`find` looks for the library and `build` compiles it, once per machine. The file name ends with the
SHA-256 of the library, which is verified before loading: a damaged library would crash the process.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from omni_runtime import machine, processor_features
from omni_runtime.bundle.contracts import DECODERS
from omni_runtime.checksums import sha256_of
from omni_runtime.errors import OmniError

UNFINISHED = "compiling-"
"""Prefix of folders in which a library is compiled."""

SOURCES = Path(__file__).parent.parent / "native"
WINDOWS = sys.platform == "win32"
# GCC for Windows does not align what AVX keeps on the stack: its kernels would crash.
COMPILERS = ("clang++",) if WINDOWS else ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-shared", "-fvisibility=hidden", "-static" if WINDOWS else "-fPIC")
AVX2 = ("-mavx2", "-mfma", "-mf16c")
"""Not -march=native: GCC's order of instructions for Zen 4 makes products 1.4 times slower. For
arm64 there are no flags: the library chooses products at run time (native/arm_features.h)."""

VNNI = {
    "avx512_vnni": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni"),
    "avx_vnni": ("-mavxvnni",),
}
"""Instruction sets that multiply and add int8 in one instruction; the first available one is used.
ONNX Runtime uses them, too, and is faster there than our IntegerMatMul, which is then left out, as
on arm64."""

PRODUCTS = ("i8mm", "asimddp", "asimd", *VNNI, "avx2")
"""Features that multiply int8, the kernels' choice first."""

TOO_LONG = 120
"""Timeout of the compiler in seconds; it usually takes five."""

INSTALL = {
    "linux": "install a C++ compiler, for example: apt install g++",
    "darwin": "xcode-select --install",
    "win32": "winget install LLVM.LLVM",
}


BUILD_NOTE = "compiling kernels for this CPU (about 5 s, once)"

_log = logging.getLogger("omni_runtime")


@dataclass(frozen=True)
class KernelLibrary:
    """The compiled library, or the reason why there is none and its fix.

    `pending`: not compiled yet, but a compiler was found.
    """

    library: Path | None
    problem: str = ""
    fix: str = ""
    pending: bool = False

    @property
    def usable(self) -> bool:
        """Whether graphs run with our kernels, now or once they are compiled."""
        return self.library is not None or self.pending

    def reads(self, graph: str) -> bool:
        """Whether our kernels read the quantized matrices of a graph directly from its file."""
        if not self.usable:
            return False
        features = processor_features.detect()
        return graph in DECODERS or ("avx2" in features and not features & VNNI.keys())


@dataclass(frozen=True)
class _Build:
    """Compiler command, cache folder, and start of the file name of this machine's library."""

    command: tuple[str, ...]
    folder: Path
    name: str


_failed: dict[_Build, KernelLibrary] = {}
"""Builds that failed in this process; they are not repeated."""


@cache
def find() -> KernelLibrary:
    """Find the library for this machine. Never compiles; takes milliseconds."""
    try:
        build = _plan()
        if isinstance(build, KernelLibrary):
            return build
        if library := _kept(build.folder, build.name):
            ctypes.CDLL(str(library))  # here, where a library that cannot be loaded is no disaster
            return KernelLibrary(library)
    except OmniError as error:  # no home, or a folder that others may write to
        return KernelLibrary(None, error.message, error.fix or "")
    except OSError as error:
        return _unusable(error)
    pending = KernelLibrary(
        None, "the kernels are not compiled yet", "warm the model up", pending=True
    )
    return _failed.get(build, pending)


def products() -> str:
    """Return the feature by which the kernels multiply int8 on this processor, or ""."""
    features = processor_features.detect()
    return next((name for name in PRODUCTS if name in features), "")


def build(progress: Callable[[str], None] | None = None) -> KernelLibrary:
    """Return the library for this machine, and compile it first if necessary.

    Compiling takes about five seconds; `progress` gets a line before it, and one if it fails.
    """
    found = find()
    if not found.pending:
        return found
    plan = _plan()
    assert isinstance(plan, _Build)
    _report(logging.INFO, BUILD_NOTE, progress)
    try:
        _compile(plan)
    except subprocess.SubprocessError as error:
        said = str(getattr(error, "stderr", None) or "it failed without a word").splitlines()
        reasons = [line for line in said if "error" in line or "failed:" in line] or said
        problem = f"{plan.command[0]} made no kernels: {reasons[0]}"
        _failed[plan] = KernelLibrary(None, problem, "CXX=another compiler")
    except OSError as error:
        _failed[plan] = _unusable(error)
    find.cache_clear()
    found = find()
    if found.problem:
        message = f"{found.problem}; ONNX Runtime's own kernels are used ({found.fix})"
        _report(logging.WARNING, message, progress)
    return found


def forget() -> None:
    """Make the next `find` look for compiler and library again."""
    find.cache_clear()
    _failed.clear()


def _report(level: int, message: str, progress: Callable[[str], None] | None) -> None:
    if progress is None:
        _log.log(level, message)
    else:
        progress(message)


def _unusable(error: OSError) -> KernelLibrary:
    """Return the result for a full disk or missing permissions."""
    fix = f"free some space, or {machine.SET_CACHE_HOME}"
    return KernelLibrary(None, f"the kernels cannot be kept or loaded: {error}", fix)


def _plan() -> _Build | KernelLibrary:
    """Return how to compile, or why that is impossible. Raises OmniError without a cache folder."""
    found = os.environ.get("CXX") or next(filter(None, map(shutil.which, COMPILERS)), "")
    compiler = [found] if shutil.which(found) else found.split()  # CXX may carry flags
    if not compiler:
        fix = INSTALL.get(sys.platform, "install clang++ and put it into PATH")
        return KernelLibrary(None, "there is no C++ compiler", fix)
    features = processor_features.detect()
    flags = (
        *FLAGS,
        *(AVX2 if "avx2" in features else ()),
        *next((flags for name, flags in VNNI.items() if name in features), ()),
    )
    key = hashlib.sha256(repr((compiler, flags, platform.machine())).encode())
    for source in sorted(SOURCES.iterdir()):
        key.update(source.read_bytes())
    command = (*compiler, *flags, str(SOURCES / "library.cpp"))
    return _Build(command, machine.cache_folder(), f"kernels-{key.hexdigest()[:16]}")


def _kept(folder: Path, name: str) -> Path | None:
    """Return the library with this name if its content is intact; delete damaged ones."""
    for library in sorted(folder.glob(f"{name}-*{_suffix()}")):
        if machine.is_private(library) and library.name == _full_name(name, library):
            return library
        library.unlink()
    return None


def _full_name(name: str, library: Path) -> str:
    return f"{name}-{sha256_of(library)[:32]}{_suffix()}"


def _remove_unfinished(folder: Path) -> None:
    """Remove what compilations left that were killed, once they are surely over."""
    for left in folder.glob(f"{UNFINISHED}*"):
        with suppress(OSError):  # another process was faster
            if time.time() - left.stat().st_mtime > 2 * TOO_LONG:
                shutil.rmtree(left)


def _compile(build: _Build) -> None:
    """Compile into a temporary folder, then rename, so no process loads a partial library."""
    build.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_unfinished(build.folder)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=build.folder) as scratch:
        made = Path(scratch) / f"{build.name}{_suffix()}"
        subprocess.run(  # noqa: S603 - the user's own compiler and our own sources
            [*build.command, "-o", str(made)],
            check=True,
            capture_output=True,
            text=True,
            timeout=TOO_LONG,
        )
        made.chmod(0o700)  # whatever the umask is
        with made.open("rb+") as file:
            os.fsync(file.fileno())
        made.replace(build.folder / _full_name(build.name, made))


def _suffix() -> str:
    return {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
