"""The doctor's examination of a bundle: everything in it is opened once, nothing is run."""

from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

from omni_runtime import machine
from omni_runtime.bundle.config import SpeechConfig
from omni_runtime.bundle.manifest import EXPORT_AGAIN, Manifest
from omni_runtime.bundle.store import Bundle
from omni_runtime.cli import processor_features, ui
from omni_runtime.cli.check import Check
from omni_runtime.errors import BundleError, OmniError
from omni_runtime.model import Model

ROOM = 1.1
"""The measured peak is of a short talk: a longer one needs a little more."""


def examine(folder: Path) -> Iterator[Check]:
    """Findings about the bundle. Raises BundleError when it can't even be opened."""
    bundle = Bundle(folder)
    manifest = bundle.manifest
    total = sum(entry.bytes for entry in manifest.files.values())
    yield Check("ok", "bundle", f"{manifest.name}, recipe {manifest.recipe}, {ui.size(total)}")
    yield _target(manifest)
    if manifest.measured is not None:
        yield _memory(manifest.measured.peak_memory)
    model = Model(bundle)
    for name in manifest.graphs:
        yield _opened(f"graph {name}", lambda name=name: model.session(name))
    yield _opened("tables", lambda: [bundle.table(name) for name in manifest.tables])
    yield _opened("chat template", lambda: model.prompts)
    if (speech := manifest.model.speech) is not None:
        yield _opened("voices", lambda: _voices(bundle, speech), ", ".join(speech.voices))
        yield _opened("presets", lambda: _presets(bundle, speech), ", ".join(speech.presets))


def _target(manifest: Manifest) -> Check:
    if processor_features.lacks(manifest.target):
        return Check(
            "warn",
            "target",
            f"made for {manifest.target}, which this processor lacks: slower, less exact",
            "export it again: python export/run.py --model CHECKPOINT --target native",
        )
    return Check("ok", "target", f"made for {manifest.target}")


def _memory(peak: int) -> Check:
    available, total = machine.available_memory(), machine.total_memory()
    found = f"{ui.size(available)} available, a spoken reply took {ui.size(peak)} where it was made"
    if total < peak:
        return Check(
            "fail", "memory for it", found, "use a smaller bundle: export with --quant int4"
        )
    if available < ROOM * peak:
        return Check("warn", "memory for it", found, "close other programs, or --context 4096")
    return Check("ok", "memory for it", found)


def _opened(name: str, make: Callable[[], object], content: str = "") -> Check:
    started = perf_counter()
    try:
        make()
    except OmniError as error:
        return Check("fail", name, error.message, error.fix or EXPORT_AGAIN)
    return Check("ok", name, content or f"opened in {perf_counter() - started:.2f} s")


def _voices(bundle: Bundle, speech: SpeechConfig) -> None:
    for name in speech.voices:
        _expect(f"voice {name}", bundle.voice(name).shape, (2, speech.dit.hidden_size))


def _presets(bundle: Bundle, speech: SpeechConfig) -> None:
    for name in speech.presets:
        shape = bundle.modulation(name).shape
        _expect(f"preset {name}", shape[2:], (speech.dit.hidden_size,))


def _expect(what: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if found != wanted:
        raise BundleError(f"{what} has shape {found} instead of {wanted}", fix=EXPORT_AGAIN)
