"""Run the presenters' JUnit tests. Gradle runs the same files."""

import os
from pathlib import Path

from omni_runtime.errors import OmniError
from toolchain.jvm import shims, wheel_library
from toolchain.kotlin import compile_kotlin, standard_library
from toolchain.process import find, run
from toolchain.project import ROOT, engine_jar, onnxruntime_jar, presenters_jar

TESTS = ROOT / "presenters" / "src/test/kotlin"
JARS = (Path("/usr/share/java/junit4.jar"), Path("/usr/share/java/hamcrest.jar"))


def run_presenter_tests(bundle: Path) -> str:
    """Run all tests and return JUnit's output. `bundle` is loaded by the tests of the real engine.

    Raises OmniError with the failures.
    """
    for jar in JARS:
        if not jar.is_file():
            raise OmniError(f"{jar} is missing", fix="apt-get install junit4")
    others = [engine_jar(), onnxruntime_jar(), *JARS]
    tests = compile_kotlin("presenter-tests", [TESTS], others, friend=presenters_jar())
    folder = shims()
    command = [
        find("java", "openjdk-17-jdk-headless"),
        "-XX:+UseSerialGC",
        f"-Donnxruntime.native.path={folder}",
        f"-Dbundle={bundle}",
        "-cp",
        os.pathsep.join(map(str, [tests, presenters_jar(), *others, standard_library()])),
        "org.junit.runner.JUnitCore",
    ]
    names = sorted(path.relative_to(TESTS) for path in TESTS.rglob("*Test.kt"))
    classes = [".".join(name.with_suffix("").parts) for name in names]
    return run([*command, *classes], environment={"ORT_REAL": str(wheel_library())})
