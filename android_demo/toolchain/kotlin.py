"""Compile Kotlin to a jar. Jars are cached by the hash of everything that they depend on."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from omni_runtime.errors import OmniError
from toolchain.parts import CACHE, part, remove_old, staging
from toolchain.process import java
from toolchain.versions import version

MAIN = "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"
OPTIONS = ["-no-stdlib", "-no-reflect", "-jvm-target", "1.8", "-Werror", "-Xjdk-release=8"]
"""Java 8 bytecode is what D8 accepts everywhere; warnings are errors."""


def standard_library() -> Path:
    """Return the jar of Kotlin's standard library."""
    return part("kotlin") / "kotlin-stdlib.jar"


def compile_kotlin(
    name: str,
    sources: Sequence[Path],
    class_path: Sequence[Path] = (),
    *,
    jdk: bool = True,
    friend: Path | None = None,
) -> Path:
    """Compile all `.kt` files below the folders `sources` to a jar, and return its path.

    Kotlin's standard library is always on the class path. `jdk=False` leaves out the JDK's own
    classes, for Android, where `class_path` has an android.jar. `friend` is a jar whose internal
    declarations the sources may use: that of the module they test. Raises OmniError with the
    compiler's messages.
    """
    jars = [standard_library(), *class_path, *([friend] if friend else [])]
    files = {path: path.read_bytes() for folder in sources for path in sorted(folder.rglob("*.kt"))}
    if not files:
        raise OmniError(f"no Kotlin sources in {', '.join(map(str, sources))}")
    options = [*OPTIONS, *([] if jdk else ["-no-jdk"])]
    if not jdk:
        options.remove("-Xjdk-release=8")
    digest = hashlib.sha256(repr([version("kotlin"), options, name]).encode())
    for path, data in files.items():
        root = next(folder for folder in sources if path.is_relative_to(folder))
        digest.update(f"\0{path.relative_to(root).as_posix()}\0{len(data)}\0".encode() + data)
    for jar in jars:
        digest.update(jar.read_bytes())
    folder = CACHE / "kotlin" / name / digest.hexdigest()[:20]
    if not folder.is_dir():
        with staging(folder) as new:
            compiler = sorted(part("kotlin").glob("*.jar"))
            joined = os.pathsep.join(map(str, jars))
            output = ["-module-name", name, "-cp", joined, "-d", new / f"{name}.jar"]
            if friend:
                output.append(f"-Xfriend-paths={friend}")
            java(MAIN, compiler, *options, *output, *files)
        remove_old(folder.parent)
    os.utime(folder)
    return folder / f"{name}.jar"
