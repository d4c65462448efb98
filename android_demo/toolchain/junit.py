"""Run the presenters' JUnit tests. Gradle runs the same files."""

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

from omni_runtime.errors import OmniError
from toolchain.apk import VOICE_ACTIVITY
from toolchain.jvm import shims, wheel_library
from toolchain.kotlin import compile_kotlin, standard_library
from toolchain.process import find, run
from toolchain.project import ROOT, engine_jar, onnxruntime_jar, presenters_jar
from toolchain.undex import JVM_OPTIONS

TESTS = ROOT / "presenters" / "src/test/kotlin"
BENCH_REPORT = "org.pocketomni.app.presenters.BenchReportMainKt"
JARS = (Path("/usr/share/java/junit4.jar"), Path("/usr/share/java/hamcrest.jar"))


def class_path(dexed: Path | None = None) -> list[Path]:
    """Compile the tests, and return them with all jars that they run with.

    `dexed` is a jar of the APK's dex files, which replaces all jars of the app. Raises OmniError.
    """
    for jar in JARS:
        if not jar.is_file():
            raise OmniError(f"{jar} is missing", fix="apt-get install junit4")
    app = [presenters_jar(), engine_jar(), onnxruntime_jar(), standard_library()]
    tests = compile_kotlin("presenter-tests", [TESTS], [*app[1:-1], *JARS], friend=app[0])
    return [tests, *([dexed] if dexed else app), *JARS]


def run_presenter_tests(bundle: Path, question: Path, dexed: Path | None = None) -> str:
    """Run all tests and return JUnit's output.

    The tests of the real engine load `bundle`, and hear `question`, a WAV file of 16 bits and
    16 kHz. `dexed` is as in `class_path`. Raises OmniError with the failures.
    """
    jars = class_path(dexed)
    with zipfile.ZipFile(jars[0]) as jar:
        names = sorted(name for name in jar.namelist() if name.endswith("Test.class"))
    tests = [name.removesuffix(".class").replace("/", ".") for name in names]
    properties = {"bundle": bundle, "question": question, "vad": VOICE_ACTIVITY}
    return _java(
        jars, properties, JVM_OPTIONS if dexed else (), "org.junit.runner.JUnitCore", *tests
    )


def run_benchmark(bundle: Path) -> str:
    """Run the app's benchmark of a bundle on one thread, and return its report as JSON."""
    return _java(class_path(), {"bundle": bundle}, (), BENCH_REPORT, "run")


def _java(jars: list[Path], properties: dict[str, Path], options: Sequence[str], *main: str) -> str:
    properties = {"onnxruntime.native.path": shims(), **properties}
    command = [
        find("java", "openjdk-17-jdk-headless"),
        "-XX:+UseSerialGC",
        *options,
        *(f"-D{name}={value}" for name, value in properties.items()),
        "-cp",
        os.pathsep.join(map(str, jars)),
        *main,
    ]
    return run(command, environment={"ORT_REAL": str(wheel_library())})
