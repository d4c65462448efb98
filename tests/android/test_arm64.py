"""The kernels for arm64: the library of the APK, and its results inside qemu's user emulation.

Without a cache, the first run downloads 240 MB and compiles zig's C++ runtime for a minute.
`python -m tests.android.arm64` runs more.
"""

import re
import struct
from pathlib import Path

import pytest
from tests.android.arm64 import checks
from tests.android.arm64.emulator import CPUS, EVALUATION, Guest, command
from tests.android.samples import needs

from toolchain.kernels import LIBRARY, kernels
from toolchain.parts import part
from toolchain.process import run
from toolchain.versions import version

PAGE = 16384
"""Size of a page on the phones with the largest ones."""


def symbols(library: Path, *, defined: bool) -> set[str]:
    """Return the dynamic symbols that a library has, or refers to, without their versions."""
    lines = [line.split() for line in run(["readelf", "--dyn-syms", "-W", library]).splitlines()]
    listed = [words for words in lines if len(words) > 7 and words[0][:-1].isdigit()]
    return {words[7].partition("@")[0] for words in listed if (words[6] != "UND") == defined}


def oldest_android(library: Path) -> int:
    """Return the API level that a library was linked for, from its note of Android's NDK."""
    data = library.read_bytes()
    at = data.index(struct.pack("<I", 1) + b"Android\0")
    return struct.unpack_from("<I", data, at + 12)[0]


@needs("npm", "readelf")
def test_the_library_of_the_apk() -> None:
    """Functions that ONNX Runtime's own library takes from an older Android exist on the phone."""
    library = kernels()
    onnxruntime = part("onnxruntime") / "jni" / "arm64-v8a" / "libonnxruntime.so"
    assert oldest_android(onnxruntime) <= int(version("min-sdk"))
    assert symbols(library, defined=False) <= symbols(onnxruntime, defined=False)
    assert symbols(library, defined=True) == {"RegisterCustomOps"}

    segments = re.findall(r"LOAD .* (0x\w+)$", run(["readelf", "-lW", library]), re.MULTILINE)
    assert segments and all(int(alignment, 16) == PAGE for alignment in segments)
    dynamic = run(["readelf", "-dW", library])
    assert set(re.findall(r"NEEDED.*\[(.+)\]", dynamic)) == {"libc.so", "libdl.so"}
    assert re.findall(r"SONAME.*\[(.+)\]", dynamic) == [LIBRARY]
    assert "TEXTREL" not in dynamic
    assert "TPREL" not in run(["readelf", "-rW", library]), "only programs have static TLS"


@needs("qemu-aarch64-static")
@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.timeout(600)
def test_kernels(cpu: str) -> None:
    with Guest(cpu) as guest:
        assert len(list(checks.short(guest, kernels()))) == len(checks.WEIGHTS) + 2


@needs("qemu-aarch64-static")
def test_the_emulated_processors_differ() -> None:
    """A library that always took the same products would pass on the newest one only."""
    code = (
        "import ctypes; ask = ctypes.CDLL(None).getauxval; ask.argtypes = [ctypes.c_ulong];"
        "ask.restype = ctypes.c_ulong; print(ask(16) >> 20 & 1, ask(26) >> 13 & 1)"
    )
    found = {cpu: run([*command(cpu, EVALUATION), "-c", code]).strip() for cpu in CPUS}
    assert found == {"neon": "0 0", "dot": "1 0", "matrix": "1 1"}
