"""The demo's own modules as jars: engine and presenters, which run on any JVM, and the app."""

import zipfile
from pathlib import Path

from toolchain.android_jar import android_jar
from toolchain.kotlin import NO_JDK, compile_kotlin, standard_library
from toolchain.parts import CACHE, cached, part

ROOT = Path(__file__).parent.parent
SOURCES = "src/main/kotlin"
TELEMETRY = ("ai/onnxruntime/telemetry/", "ai/onnxruntime/TelemetryInitializer")
"""Classes of ONNX Runtime for Android that send usage data. They start from a content provider that
its own manifest declares, so no other class refers to them."""


def onnxruntime_jar() -> Path:
    """Return ONNX Runtime's Java API without its telemetry."""
    source = part("onnxruntime") / "classes.jar"

    def filter_classes(new: Path) -> None:
        target = zipfile.ZipFile(new / "onnxruntime.jar", "w", zipfile.ZIP_DEFLATED)
        with zipfile.ZipFile(source) as old, target as jar:
            for name in sorted(old.namelist()):
                if name.endswith(".class") and not name.startswith(TELEMETRY):
                    jar.writestr(zipfile.ZipInfo(name), old.read(name))

    folder = CACHE / "onnxruntime" / source.parent.name
    return cached(folder, filter_classes) / "onnxruntime.jar"


def engine_jar() -> Path:
    """Compile the engine."""
    return compile_kotlin("engine", [ROOT / "engine" / SOURCES], [onnxruntime_jar()])


def presenters_jar() -> Path:
    """Compile the presenters. They do not see Android, so they cannot use it."""
    return compile_kotlin("presenters", [ROOT / "presenters" / SOURCES], [engine_jar()])


def app_jars(resource_classes: Path) -> list[Path]:
    """Compile the app, and return all jars of the APK. `resource_classes` has the R class."""
    others = [presenters_jar(), engine_jar(), onnxruntime_jar(), resource_classes]
    class_path = [android_jar()[0], *others]
    app = compile_kotlin("app", [ROOT / "app" / SOURCES], class_path, api=NO_JDK)
    return [app, *others, standard_library()]
