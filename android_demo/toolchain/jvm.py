"""The engine on a desktop JVM, by the phone's own Java API of ONNX Runtime.

The AAR's x86-64 JNI library is made for Android. Small libraries (`engine/shims/`) stand in for
Android's; the one for ONNX Runtime calls the library of the Python wheel. So Kotlin and Python run
the same kernels, and their results can be compared to the last bit.
"""

import hashlib
import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path

from omni_runtime.errors import OmniError
from toolchain.kotlin import compile_kotlin, standard_library
from toolchain.parts import CACHE, part, staging
from toolchain.process import find, run
from toolchain.project import ROOT, engine_jar, onnxruntime_jar

SHIMS = ROOT / "engine" / "shims"
VERSIONS = {"libonnxruntime": "onnxruntime.map"}
"""Symbol versions of a shim; those of Android's C library elsewhere."""
FLAGS = ("-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror")
SERVER = "org.pocketomni.engine.ServerKt"


def shims() -> Path:
    """Return a folder with the shims and the JNI library.

    Raises OmniError on anything but x86-64 Linux.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise OmniError("the engine's tests run on x86-64 Linux only")
    compiler = find("cc", "gcc")
    jni = part("onnxruntime") / "jni" / "x86_64" / "libonnxruntime4j_jni.so"
    digest = hashlib.sha256(repr([FLAGS, compiler]).encode() + jni.read_bytes())
    for path in sorted(SHIMS.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    folder = CACHE / "shims" / digest.hexdigest()[:20]
    if not folder.is_dir():
        with staging(folder) as new:
            shutil.copyfile(jni, new / jni.name)
            for source in sorted(SHIMS.glob("*.c")):
                script = SHIMS / VERSIONS.get(source.stem, "bionic.map")
                names = f"-Wl,-soname,{source.stem}.so,--version-script={script}"
                run([compiler, *FLAGS, names, "-o", new / f"{source.stem}.so", source])
    return folder


def tests_jar() -> Path:
    """Compile the engine's test server."""
    sources = [ROOT / "engine" / "src/test/kotlin"]
    return compile_kotlin("engine-tests", sources, [onnxruntime_jar()], friend=engine_jar())


def wheel_library() -> Path:
    """Return the libonnxruntime of the Python wheel."""
    found = importlib.util.find_spec("onnxruntime")
    assert found is not None and found.origin is not None
    libraries = sorted((Path(found.origin).parent / "capi").glob("libonnxruntime.so.*"))
    if not libraries:
        raise OmniError("the onnxruntime wheel has no libonnxruntime.so", fix="install 1.32")
    return libraries[0]


def server(*options: str, engine: Path | None = None) -> tuple[list[str], dict[str, str]]:
    """Return the command of the test server, and its environment. `options` are those of the JVM.

    `engine` replaces the engine's jar, for example by one that was made from the dex file.
    """
    folder = shims()
    jars = [engine or engine_jar(), tests_jar(), onnxruntime_jar(), standard_library()]
    command = [
        find("java", "openjdk-17-jdk-headless"),
        "-XX:+UseSerialGC",
        f"-Donnxruntime.native.path={folder}",
        *options,
        "-cp",
        os.pathsep.join(map(str, jars)),
        SERVER,
        str(folder),
    ]
    return command, {**os.environ, "ORT_REAL": str(wheel_library())}
