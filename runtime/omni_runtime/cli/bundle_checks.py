"""The checks of `omni doctor` on a bundle: each file is opened once, no graph is run."""

from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

from omni_runtime import processor_features
from omni_runtime.bundle.config import SpeechConfig
from omni_runtime.bundle.manifest import Manifest
from omni_runtime.bundle.store import Bundle
from omni_runtime.cli import memory_check
from omni_runtime.cli.check import Check
from omni_runtime.cli.common import format_size
from omni_runtime.cli.hints import EXPORT_AGAIN, hint
from omni_runtime.engine import kernels
from omni_runtime.engine.session import SessionOptions
from omni_runtime.errors import BundleError, OmniError
from omni_runtime.memory import ENCODERS, Footprint
from omni_runtime.model import Model


def check_bundle(folder: Path, budget: int | None = None) -> Iterator[Check]:
    """Check a bundle. Raises BundleError if it cannot be opened.

    If the bundle does not fit in memory, or in `budget` bytes, its graphs are not opened.
    """
    bundle = Bundle(folder)
    manifest = bundle.manifest
    total = sum(entry.bytes for entry in manifest.files.values())
    yield Check("ok", "bundle", f"{manifest.name}, recipe {manifest.recipe}, {format_size(total)}")
    yield _target(manifest)
    speaks = manifest.model.speech is not None
    footprint = Footprint.of(manifest, native=kernels.find().usable)
    fit = memory_check.estimate(footprint, budget, speech=speaks, encoders=ENCODERS)
    yield fit
    model = Model(bundle, SessionOptions(prepack_cache=False))
    for name in manifest.graphs if fit.status != "fail" else ():
        yield _opened(f"graph {name}", lambda name=name: model.graph(name))
    yield _opened("tables", lambda: [bundle.table(name) for name in manifest.tables])
    yield _opened("chat template", lambda: model.prompts)
    if (speech := manifest.model.speech) is not None:
        yield _opened("voices", lambda: _voices(bundle, speech), ", ".join(speech.voices))
        yield _opened("presets", lambda: _presets(bundle, speech), ", ".join(speech.presets))


def _target(manifest: Manifest) -> Check:
    if processor_features.is_missing(manifest.target):
        return Check(
            "warn",
            "target",
            f"exported for {manifest.target}, which this processor lacks: slower and less accurate",
            f"{EXPORT_AGAIN} --target native",
        )
    return Check("ok", "target", f"exported for {manifest.target}")


def _opened(name: str, make: Callable[[], object], content: str = "") -> Check:
    started = perf_counter()
    try:
        make()
    except OmniError as error:
        return Check("fail", name, error.message, hint(error) or EXPORT_AGAIN)
    return Check("ok", name, content or f"opened in {perf_counter() - started:.2f} s")


def _voices(bundle: Bundle, speech: SpeechConfig) -> None:
    for name in speech.voices:
        _expect(f"voice {name}", bundle.voice(name).shape, (2, speech.dit.hidden_size))


def _presets(bundle: Bundle, speech: SpeechConfig) -> None:
    for name in speech.presets:
        shape = bundle.modulation(name).shape
        _expect(f"preset {name}", shape[2:], (speech.dit.hidden_size,))


def _expect(what: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if shape != wanted:
        raise BundleError(f"{what} has shape {shape} instead of {wanted}", fix=EXPORT_AGAIN)
