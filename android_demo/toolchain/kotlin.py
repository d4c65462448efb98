"""Compile Kotlin to a jar. Jars are cached by the hash of everything that they depend on."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from omni_runtime.errors import OmniError
from toolchain.parts import CACHE, KEPT, cached, part
from toolchain.process import java
from toolchain.versions import version

MAIN = "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"
OPTIONS = ("-no-stdlib", "-no-reflect", "-jvm-target", "1.8", "-Werror")
"""Java 8 bytecode is what D8 accepts everywhere; warnings are errors."""

JAVA_8 = ("-Xjdk-release=8",)
"""Compile against the API of Java 8, whatever JDK runs the compiler."""

NO_JDK = ("-no-jdk",)
"""For Android, where the class path has an android.jar."""


def standard_library() -> Path:
    """Return the jar of Kotlin's standard library."""
    return part("kotlin") / "kotlin-stdlib.jar"


def compile_kotlin(
    name: str,
    sources: Sequence[Path],
    class_path: Sequence[Path] = (),
    *,
    api: Sequence[str] = JAVA_8,
    friend: Path | None = None,
) -> Path:
    """Compile all `.kt` files below the folders `sources` to a jar, and return its path.

    Kotlin's standard library is always on the class path. `api` selects the JDK's own classes.
    `friend` is a jar whose internal declarations the sources may use: that of the module they
    test. Raises OmniError with the compiler's messages.
    """
    jars = [standard_library(), *class_path, *([friend] if friend else [])]
    files = {path: path.read_bytes() for folder in sources for path in sorted(folder.rglob("*.kt"))}
    if not files:
        raise OmniError(f"no Kotlin sources in {', '.join(map(str, sources))}")
    options = [*OPTIONS, *api]
    digest = hashlib.sha256(repr([version("kotlin"), options, name]).encode())
    for path, data in files.items():
        root = next(folder for folder in sources if path.is_relative_to(folder))
        digest.update(f"\0{path.relative_to(root).as_posix()}\0{len(data)}\0".encode() + data)
    for jar in jars:
        digest.update(jar.read_bytes())

    def build(new: Path) -> None:
        compiler = sorted(part("kotlin").glob("*.jar"))
        output = ["-module-name", name, "-cp", os.pathsep.join(map(str, jars))]
        friends = [f"-Xfriend-paths={friend}"] if friend else []
        java(MAIN, compiler, *options, *output, *friends, "-d", new / f"{name}.jar", *files)

    folder = CACHE / "kotlin" / name / digest.hexdigest()[:20]
    return cached(folder, build, keep=KEPT) / f"{name}.jar"
