"""The doctor's examination of a bundle: everything in it is opened once, nothing is run."""

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
    """Findings about the bundle. Raises BundleError when it can't even be opened.

    The graphs of one that does not fit in the machine, or in `budget` bytes, stay closed.
    """
    bundle = Bundle(folder)
    manifest = bundle.manifest
    total = sum(entry.bytes for entry in manifest.files.values())
    yield Check("ok", "bundle", f"{manifest.name}, recipe {manifest.recipe}, {format_size(total)}")
    yield _target(manifest)
    speaks = manifest.model.speech is not None
    footprint = Footprint.of(manifest, native=kernels.find().usable)
    room = memory_check.memory(footprint, budget, speech=speaks, encoders=ENCODERS)
    yield room
    model = Model(bundle, SessionOptions(prepack_cache=False))
    for name in manifest.graphs if room.status != "fail" else ():
        yield _opened(f"graph {name}", lambda name=name: model.graph(name))
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


def _expect(what: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if found != wanted:
        raise BundleError(f"{what} has shape {found} instead of {wanted}", fix=EXPORT_AGAIN)
