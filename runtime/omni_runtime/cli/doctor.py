"""`omni doctor`: check this machine, and a bundle on it. One line for each check.

Nothing is repaired. Each line that is not ok ends with the command that repairs it. The doctor must
run in a broken installation, so each check imports what it needs.
"""

import argparse
import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from omni_runtime import processor_features
from omni_runtime.cli.check import Check
from omni_runtime.cli.common import format_size
from omni_runtime.cli.hints import hint
from omni_runtime.errors import OmniError

PACKAGES = {
    "av": "14",
    "jinja2": "3.1",
    "msgspec": "0.19",
    "numpy": "2.0",
    "onnxruntime": "1.29",
    "packaging": "24",
    "pillow": "11",
    "platformdirs": "4.3",
    "psutil": "6",
    "soxr": "1.0",
    "tokenizers": "0.21",
}
"""Packages of the runtime and their minimum versions, as in pyproject.toml."""

LEAST_PYTHON = (3, 11)
LEAST_DISK = 2**30
TALK = 'pip install "pocket-omni[talk]"'


def main(options: argparse.Namespace) -> int:
    """Print the results, or the licences. Return 1 if a check failed, else 0."""
    if options.licences:
        from omni_runtime.cli import licences, ui  # noqa: PLC0415

        ui.say(ui.table(("package", "version", "licence"), licences.licences()))
        return 0
    failed = False
    for check in checks(options.bundle, options.memory):
        fix = f"  ->  {check.fix}" if check.fix else ""
        sys.stdout.write(f"{check.status:<5} {check.name:<20} {check.found}{fix}\n")
        sys.stdout.flush()
        failed |= check.status == "fail"
    return int(failed)


def checks(bundle: str | None, budget: int | None = None) -> Iterator[Check]:
    """Check this machine, then a bundle on it. Yield each result as soon as it is known.

    `budget` is the memory limit in bytes; None for all of the machine's memory.
    """
    machine: list[Callable[[], Iterator[Check]]] = [
        _python,
        _packages,
        _processor,
        _caches,
        _kernels,
        _prepack_cache,
        _memory,
        _disk,
        _sound,
        _line_editor,
    ]
    for check in machine:
        yield from _guarded(check.__name__.strip("_"), check)
    if bundle is not None:

        def bundle_checks() -> Iterator[Check]:
            from omni_runtime.cli.bundle_checks import check_bundle  # noqa: PLC0415 - imports onnxruntime

            return check_bundle(Path(bundle), budget)

        yield from _guarded("bundle", bundle_checks)


def _guarded(name: str, check: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """Yield the results of a check. A check that cannot run yields a failure."""
    try:
        yield from check()
    except OmniError as error:
        yield Check("fail", name, error.message, hint(error) or "omni doctor")
    except ImportError as error:
        package = (error.name or "pocket-omni").split(".")[0]
        yield Check("fail", name, f"cannot be checked without {package}", "pip install pocket-omni")


def _python() -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < LEAST_PYTHON:
        least = ".".join(map(str, LEAST_PYTHON))
        yield Check("fail", "python", version, f"install Python {least} or newer")
    else:
        yield Check("ok", "python", version)


def _packages() -> Iterator[Check]:
    from packaging.version import Version  # noqa: PLC0415

    good: list[str] = []
    for name, least in PACKAGES.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Check("fail", name, "is not installed", f'pip install "{name}>={least}"')
            continue
        if Version(version) < Version(least):
            yield Check("fail", name, f"{version} is too old", f'pip install -U "{name}>={least}"')
        else:
            good.append(f"{name} {version}")
    yield Check("ok", "packages", ", ".join(good))


def _processor() -> Iterator[Check]:
    import psutil  # noqa: PLC0415

    from omni_runtime import machine  # noqa: PLC0415

    features = processor_features.detect()
    known = (
        ", ".join(sorted(features & processor_features.RELEVANT)) or "no known vector extensions"
    )
    yield Check("ok", "processor", f"{machine.processor()}: {known}")
    physical = psutil.cpu_count(logical=False)
    yield Check(
        "ok", "cores", f"{_usable_cores()} usable, {physical or 'unknown number of'} physical"
    )


def _kernels() -> Iterator[Check]:
    from omni_runtime.cli import ui  # noqa: PLC0415
    from omni_runtime.engine import kernels  # noqa: PLC0415

    found = kernels.build(ui.note)
    if found.library:
        products = kernels.products()
        by = f", int8 products by {products}" if products else ""
        yield Check("ok", "native kernels", f"{found.library}{by}")
    else:
        slower = "ONNX Runtime's kernels are slower"
        yield Check("warn", "native kernels", f"{found.problem}: {slower}", found.fix)


def _caches() -> Iterator[Check]:
    from omni_runtime import machine  # noqa: PLC0415

    try:
        yield Check("ok", "caches", str(machine.cache_folder()))
    except OmniError as error:
        yield Check("warn", "caches", error.message, hint(error) or "omni doctor")


def _prepack_cache() -> Iterator[Check]:
    from omni_runtime.engine import prepack_cache  # noqa: PLC0415

    if (size := prepack_cache.size()) is not None:
        yield Check(
            "ok",
            "prepack cache",
            f"{format_size(size)} in {prepack_cache.folder()}, can be deleted",
        )


def _usable_cores() -> int:
    from omni_runtime.engine.session import available_cores  # noqa: PLC0415

    return available_cores()


def _memory() -> Iterator[Check]:
    from omni_runtime import machine  # noqa: PLC0415

    available, total = machine.available_memory(), machine.total_memory()
    yield Check("ok", "memory", f"{format_size(available)} available of {format_size(total)}")


def _disk() -> Iterator[Check]:
    free = shutil.disk_usage(Path.cwd()).free
    if free < LEAST_DISK:
        yield Check(
            "warn", "disk", f"{format_size(free)} free here", "free some space; 1 GB is enough"
        )
    else:
        yield Check("ok", "disk", f"{format_size(free)} free here")


def _sound() -> Iterator[Check]:
    try:
        sounddevice = importlib.import_module("sounddevice")
    except ImportError:
        yield Check("warn", "sounddevice", "is not installed: no playback, no recording", TALK)
        return
    except OSError as error:  # the package is installed, PortAudio is not
        fix = "apt install libportaudio2" if sys.platform == "linux" else TALK
        yield Check("warn", "sounddevice", str(error), fix)
        return
    yield Check("ok", "sounddevice", str(sounddevice.__version__))
    for kind, name, instead in (
        ("output", "loudspeaker", 'omni run BUNDLE "Hello" -o answer.wav'),
        ("input", "microphone", "omni run BUNDLE --audio question.wav"),
    ):
        try:
            device = sounddevice.query_devices(kind=kind)
        except Exception as error:  # PortAudioError, or ValueError without a device
            yield Check("warn", name, str(error).splitlines()[0], instead)
        else:
            yield Check("ok", name, str(device["name"]))


def _line_editor() -> Iterator[Check]:
    try:
        yield Check("ok", "prompt-toolkit", metadata.version("prompt-toolkit"))
    except metadata.PackageNotFoundError:
        yield Check(
            "warn",
            "prompt-toolkit",
            "is not installed: no history in conversations",
            'pip install "pocket-omni[repl]"',
        )
