"""Debian's Python for arm64 with wheels from PyPI, inside qemu's user emulation.

apt-get and pip download everything into the cache of the Android build. Nothing is installed.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from omni_runtime import NO_TELEMETRY
from toolchain.kernels import zig
from toolchain.parts import CACHE, cached
from toolchain.process import find, run

GUEST = Path(__file__).parent / "guest.py"
QEMU = "qemu-aarch64-static"
PACKAGES = (
    "libbz2-1.0", "libc6", "libexpat1", "libffi8", "libgcc-s1", "liblzma5",
    "libpython3.11-minimal", "libpython3.11-stdlib", "libsqlite3-0", "libssl3", "libstdc++6",
    "libuuid1", "python3.11-minimal", "zlib1g",
)  # fmt: skip
EVALUATION = ("numpy", "onnxruntime")
RUNTIME = (*EVALUATION, "av", "jinja2", "msgspec", "packaging", "pillow", "platformdirs", "psutil",
           "soxr", "tokenizers")  # fmt: skip

CPUS: Mapping[str, str] = {
    "neon": "cortex-a53",
    "dot": "cortex-a76",
    "matrix": "max,sve=off,sme=off",  # phones with SMMLA, whose systems hide SVE
}
_FEATURES = {
    "neon": "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid",
    "dot": "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc"
    " dcpop asimddp",
}
_FEATURES["matrix"] = _FEATURES["dot"] + " i8mm bf16"
_PARTS = {"neon": "0xd03", "dot": "0xd0b", "matrix": "0xd4d"}


def root(cpu: str) -> Path:
    """Return the file system of a processor: qemu looks there for files first.

    ONNX Runtime reads /proc/cpuinfo, and the host's would crash it.
    """
    shared = cached(CACHE / "arm64" / "debian-12", _unpack_debian)
    text = "".join(
        f"processor\t: {number}\nFeatures\t: {_FEATURES[cpu]}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: {_PARTS[cpu]}\nCPU revision\t: 0\n\n"
        for number in range(os.cpu_count() or 1)
    )

    def make(new: Path) -> None:
        for name in ("lib", "usr"):
            (new / name).symlink_to(shared / name)
        (new / "proc").mkdir()
        (new / "proc" / "cpuinfo").write_text(text)

    return cached(CACHE / "arm64" / f"root-{cpu}-{os.cpu_count()}", make)


def _unpack_debian(new: Path) -> None:
    """Download packages with private apt folders, so that it works without root."""
    apt = new / "apt"
    for name in ("lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True)
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    source = f"deb [arch=arm64 signed-by={keyring}] http://deb.debian.org/debian bookworm main\n"
    (apt / "sources.list").write_text(source)
    (apt / "status").touch()
    options = {
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
    }
    words = [word for key, value in options.items() if value for word in ("-o", f"{key}={value}")]
    command = [find("apt-get", "apt"), *words]
    run([*command, "update"])
    run([*command, "download", *PACKAGES], cwd=apt)
    for package in apt.glob("*.deb"):
        run(["dpkg-deb", "-x", package, new])
    run(["rm", "-r", apt])


def site(packages: Sequence[str]) -> Path:
    """Return a folder with wheels for arm64, of the versions that this Python has."""
    wanted = [f"{name}=={metadata.version(name)}" for name in packages]

    def install(new: Path) -> None:
        tags = [
            "manylinux2014",
            *(f"manylinux_2_{minor}" for minor in (17, 24, 26, 27, 28, 31, 34)),
        ]
        platforms = [word for tag in tags for word in ("--platform", f"{tag}_aarch64")]
        run([sys.executable, "-m", "pip", "install", "--quiet", "--target", new, *platforms,
             "--python-version", "3.11", "--only-binary=:all:", *wanted])  # fmt: skip

    name = "-".join(one.replace("==", "-") for one in wanted if one.startswith(EVALUATION))
    return cached(CACHE / "arm64" / f"site-{len(wanted)}-{name}", install)


def bionic() -> Path:
    """Return a folder with libraries that have the names of Android's and call glibc."""

    def compile_libraries(new: Path) -> None:
        source = new / "errno.c"
        source.write_text(
            "extern int *__errno_location(void);\n"
            "int *__errno(void) { return __errno_location(); }\n"
        )
        for name in ("libc.so", "libdl.so"):
            zig(["cc", "-target", "aarch64-linux-gnu", "-shared", f"-Wl,-soname,{name}", "-o",
                 new / name, source])  # fmt: skip

    return cached(CACHE / "arm64" / "bionic", compile_libraries)


def command(
    cpu: str, packages: Sequence[str], *, plugin: Path | None = None, path: Sequence[Path] = ()
) -> list[str]:
    """Return the words that start Python inside the emulator. `path`: more Python folders.

    With a plugin, Debian's package qemu-user is needed: static programs cannot load one.
    """
    folder = root(cpu)
    environment = {
        "PYTHONHOME": folder / "usr",
        "PYTHONPATH": os.pathsep.join(map(str, [site(packages), *path])),
        "LD_LIBRARY_PATH": bionic(),
        "PYTHONDONTWRITEBYTECODE": "1",
        **NO_TELEMETRY,
    }
    words: list[str | Path] = [find(QEMU, "qemu-user-static")]
    if plugin is not None:
        words = [find("qemu-aarch64", "qemu-user"), "-plugin", plugin]
    words += ["-cpu", CPUS[cpu], "-L", folder]
    words += [word for name, value in environment.items() for word in ("-E", f"{name}={value}")]
    return [str(word) for word in (*words, folder / "usr" / "bin" / "python3.11")]


class Guest:
    """A Python inside the emulator that evaluates models (guest.py)."""

    def __init__(self, cpu: str, *, plugin: Path | None = None) -> None:
        words = [*command(cpu, EVALUATION, plugin=plugin), str(GUEST)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            words, stdin=pipe, stdout=pipe, stderr=pipe if plugin else None
        )

    def __enter__(self) -> "Guest":
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:  # closes the pipes and waits
            pass

    def evaluate(
        self, model: bytes, inputs: dict[str, np.ndarray], library: Path | None, **given: Any
    ) -> list[np.ndarray]:
        """Return the outputs of a model. Raises RuntimeError with the guest's error."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        request = {"model": model, "inputs": inputs, "library": library and str(library), **given}
        pickle.dump(request, process.stdin, protocol=5)
        process.stdin.flush()
        reply = pickle.load(process.stdout)
        if isinstance(reply, str):
            raise RuntimeError(reply)
        return reply

    def instructions(
        self, model: bytes, inputs: dict[str, np.ndarray], library: Path | None, **given: Any
    ) -> float:
        """Return the instructions of one evaluation on one thread. Needs the plugin."""
        repeat = 3
        self.evaluate(model, inputs, library, repeat=repeat, threads=1, **given)
        counts: list[int] = []
        while len(counts) < 2:
            assert self._process.stderr is not None
            line = self._process.stderr.readline().decode()
            if not line:
                raise RuntimeError("the emulator ended")
            if line.startswith("instructions "):
                counts.append(int(line.split()[1]))
        return (counts[1] - counts[0]) / repeat
