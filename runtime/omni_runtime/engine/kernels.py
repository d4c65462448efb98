"""Our own kernels for the operators of our own domain, compiled on the machine that will run them.

A graph's node of that domain is a function of ONNX operators. Where a compiler was found it runs
as one kernel instead, with the same result up to rounding, faster; where none was, ONNX Runtime
inlines the function. The library is compiled once and kept with the user's caches, under a name
that ends with its SHA-256: one that was damaged would kill the process, so it is checked before it
is loaded, and compiled again.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from omni_runtime import machine, processor_features
from omni_runtime.bundle.contracts import DECODERS
from omni_runtime.errors import OmniError

SOURCES = Path(__file__).parent.parent / "native"
WINDOWS = sys.platform == "win32"
# GCC for Windows does not align what AVX keeps on the stack: its kernels would crash.
COMPILERS = ("clang++",) if WINDOWS else ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-shared", "-fvisibility=hidden", "-static" if WINDOWS else "-fPIC")
AVX2 = ("-mavx2", "-mfma", "-mf16c")
"""Not -march=native: GCC's order of instructions for Zen 4 makes products 1.4 times slower."""

VNNI = {
    "avx512_vnni": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni"),
    "avx_vnni": ("-mavxvnni",),
}
"""Multiply and add int8 in one instruction; the first one that a processor has is taken. ONNX
Runtime's products of int8 use it too, which makes them faster there than our IntegerMatMul, so
that one is left out."""

TOO_LONG = 120
"""Seconds after which a compiler is given up: it takes five."""

INSTALL = {
    "linux": "install a C++ compiler, for example: apt install g++",
    "darwin": "xcode-select --install",
    "win32": "winget install LLVM.LLVM",
}


@dataclass(frozen=True)
class KernelLibrary:
    """The compiled library, or why there is none and what to do about it."""

    library: Path | None
    problem: str = ""
    fix: str = ""

    def reads(self, graph: str) -> bool:
        """Whether a kernel of ours reads the quantized matrices of a graph from its file."""
        if self.library is None:
            return False
        return graph in DECODERS or not processor_features.detect() & VNNI.keys()


@cache
def kernel_library() -> KernelLibrary:
    """The library for this machine, compiled if it has not been yet."""
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
    try:
        name = f"kernels-{key.hexdigest()[:16]}"
        folder = machine.cache_folder()
        library = _kept(folder, name) or _compile(
            [*compiler, *flags, str(SOURCES / "library.cpp")], folder, name
        )
        ctypes.CDLL(str(library))  # here, where a library that cannot be loaded is no disaster
    except subprocess.SubprocessError as error:
        said = str(getattr(error, "stderr", None) or "it failed without a word").splitlines()
        reasons = [line for line in said if "error" in line or "failed:" in line] or said
        return KernelLibrary(None, f"{found} made no kernels: {reasons[0]}", "CXX=another compiler")
    except OmniError as error:  # no home, or a folder that others may write to
        return KernelLibrary(None, error.message, error.fix or "")
    except OSError as error:  # no room, no right to run what lies there
        fix = f"free some space, or {machine.SET_CACHE_HOME}"
        return KernelLibrary(None, f"the kernels cannot be kept or loaded: {error}", fix)
    return KernelLibrary(library)


def _kept(folder: Path, name: str) -> Path | None:
    """The library of that name whose content is what its name says. Damaged ones are removed."""
    for library in sorted(folder.glob(f"{name}-*{_suffix()}")):
        if machine.is_private(library) and library.name == _full_name(name, library):
            return library
        library.unlink()
    return None


def _full_name(name: str, library: Path) -> str:
    digest = hashlib.sha256(library.read_bytes()).hexdigest()[:32]
    return f"{name}-{digest}{_suffix()}"


def _compile(command: list[str], folder: Path, name: str) -> Path:
    """Compile beside the final place, so that nobody ever loads half a library."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / f"{name}{_suffix()}"
        subprocess.run(  # noqa: S603 - the user's own compiler and our own sources
            [*command, "-o", str(made)],
            check=True,
            capture_output=True,
            text=True,
            timeout=TOO_LONG,
        )
        made.chmod(0o700)  # whatever the umask is
        with made.open("rb+") as file:
            os.fsync(file.fileno())
        library = folder / _full_name(name, made)
        return made.replace(library)


def _suffix() -> str:
    return {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
