"""Export a checkpoint to a bundle, atomically.

Everything is written to a staging folder next to the destination (`omni_runtime.atomic_folder`).
After a first reply as a smoke test, the staging folder replaces the destination. An export that is
killed or fails leaves only the staging folder. The next export with the same request reuses its
finished artifacts; an export with another request removes it.
"""

import errno
import shutil
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
from filelock import BaseFileLock, FileLock, Timeout
from msgspec import Struct

import omni_quantize
import omni_runtime
from omni_export import (
    assets,
    int8_cache,
    own_replies,
    plan,
    quality,
    second_moments,
    smoke_test,
)
from omni_export.artifacts import (
    ArtifactStore,
    Finished,
    digest_of_files,
    file_entry,
    finished_artifacts,
)
from omni_export.graph_files import GraphWriter
from omni_export.hub import LocalCheckpoint
from omni_export.plan import Plan
from omni_export.progress import ProgressMeter, Report
from omni_export.source import read_config
from omni_quantize import nbits
from omni_quantize.recipe import Recipe
from omni_runtime.atomic_folder import StagedFolder, unlisted_files
from omni_runtime.bundle.manifest import (
    DIGEST_NAME,
    FILE_NAME,
    FORMAT,
    FileEntry,
    Manifest,
    Origin,
    Quality,
    write_manifest,
)
from omni_runtime.bundle.store import voice_file
from omni_runtime.errors import OmniError, UsageError

EXPECTED_ERRORS = (None, errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EEXIST, errno.ENOTDIR)
"""Errors of a destination that cannot be written. None: numpy loses the number on a full disk."""

LOCK, SCRATCH = "lock", "scratch"


@dataclass(frozen=True)
class ExportRequest:
    """What to export, how, and where to. `target` is a CPU family, not "native".

    `calibration` is a text to fit 4-bit blocks on; empty: without.
    """

    checkpoint: LocalCheckpoint
    recipe: Recipe
    target: str
    destination: Path
    calibration: str = ""

    def key(self) -> str:
        """Return everything that an artifact depends on. Another key invalidates all artifacts."""
        sources = [
            digest_of_files(Path(package.__file__).parent, "*.py")
            for package in (plan, omni_quantize, omni_runtime)
            if package.__file__
        ]
        own = (self.destination, StagedFolder(self.destination).folder)
        depends = {
            "model": self.checkpoint.model,
            "revision": self.checkpoint.revision,
            "files": [digest_of_files(folder, "*", own) for folder in self.checkpoint.folders],
            "mute": self.checkpoint.mute,
            "recipe": self.recipe,
            "target": self.target,
            "calibration": self.calibration,
            "exporter": [_version(), *sources, onnxruntime.__version__],
        }
        return msgspec.json.encode(depends).decode()


def export(request: ExportRequest, report: Report) -> Manifest:
    """Write the bundle to `request.destination`, replacing an existing bundle.

    Raises:
        UsageError: the destination is not a bundle, or the model is not supported.
        OmniError: the checkpoint is incomplete or damaged, or the disk is full.
    """
    destination = request.destination
    with _disk_errors(destination), _staged(destination) as staged:
        store = ArtifactStore(staged.folder, request.key(), bundle=staged.new)
        meter = ProgressMeter(report)
        meter.prepare("reading the checkpoint")
        local = request.checkpoint
        source = read_config(local.folder, speech_from=local.speech_from, mute=local.mute)
        writer = GraphWriter(
            staged.folder / SCRATCH, request.recipe, request.target, request.calibration
        )
        planned = plan.make(local, source, writer)
        finished = store.finished(artifact.name for artifact in planned.artifacts)
        licence = _write_small_files(request, planned, store.bundle)
        artifacts = _write_artifacts(planned, finished, store, meter)
        manifest = _manifest(request, planned, licence, artifacts, store.bundle)
        write_manifest(manifest, store.bundle)
        manifest = _calibrate(planned, manifest, store.bundle, request.calibration, meter)
        write_manifest(manifest, store.bundle)
        meter.begin("first reply")
        measured, reason = smoke_test.attempt(store.bundle, manifest)
        manifest = msgspec.structs.replace(manifest, measured=measured, not_measured=reason)
        write_manifest(manifest, store.bundle)
        _check_replaceable(destination)
        staged.commit()
    return manifest


def _write_artifacts(
    planned: Plan, finished: dict[str, Finished], store: ArtifactStore, meter: ProgressMeter
) -> dict[str, Finished]:
    """Write the unfinished artifacts. Return all artifacts in the order of the plan."""
    meter.expect(
        # own replies, int8 cache and first reply come after them, and the fit of the Talker
        steps=len(planned.artifacts) + 3 + (planned.fit_talker is not None),
        weights=sum(artifact.weights for artifact in planned.artifacts) + _talker_weights(planned),
    )
    for artifact in planned.artifacts:
        if artifact.name in finished:
            meter.keep(artifact.name, artifact.weights)
    for artifact in planned.artifacts:
        if artifact.name not in finished:
            meter.begin(artifact.name)
            finished[artifact.name] = store.finish(
                artifact.name, artifact.write(store.bundle, meter.advance)
            )
    return {artifact.name: finished[artifact.name] for artifact in planned.artifacts}


def _calibrate(
    planned: Plan, manifest: Manifest, bundle: Path, calibration: str, meter: ProgressMeter
) -> Manifest:
    """Fit the Talker to its own speech, and add the int8 KV cache, if memory allows replies."""
    meter.begin("own replies")
    possible = smoke_test.obstacle(manifest) is None
    observed = own_replies.observe(bundle, calibration) if possible else None
    if planned.fit_talker is not None:
        meter.begin("talker, fitted")
        if observed is None:
            meter.advance(_talker_weights(planned))
        else:
            written = planned.fit_talker(observed.talker_rows).write(bundle, meter.advance)
            assert written.graph is not None
            entries = {name: file_entry(bundle / name) for name in written.files}
            manifest = msgspec.structs.replace(
                manifest,
                graphs=manifest.graphs | {"talker": written.graph},
                files=manifest.files | entries,
            )
    meter.begin("int8 cache")
    return int8_cache.add(bundle, manifest, observed.absmax) if observed else manifest


def _talker_weights(planned: Plan) -> int:
    """Return the number of weights that fitting the Talker reads again."""
    if planned.fit_talker is None:
        return 0
    return next(artifact.weights for artifact in planned.artifacts if artifact.name == "talker")


def _write_small_files(request: ExportRequest, planned: Plan, bundle: Path) -> str:
    """Write the small files, which are not reused. Return the licence in one line."""
    for name, voice in planned.voices.items():
        (bundle / voice_file(name)).parent.mkdir(exist_ok=True)
        np.save(bundle / voice_file(name), voice.condition)
    return assets.copy(request.checkpoint.folder, bundle)


def _manifest(
    request: ExportRequest,
    planned: Plan,
    licence: str,
    artifacts: dict[str, Finished],
    bundle: Path,
) -> Manifest:
    """Return the manifest of a bundle without measurements."""
    checkpoint, config = request.checkpoint, planned.config
    capabilities = ["text"]
    capabilities += ["audio"] if config.audio else []
    capabilities += ["image", "video"] if config.vision else []
    capabilities += ["speech"] if config.speech else []
    return Manifest(
        format=FORMAT,
        name=request.destination.name,
        exporter=f"pocket-omni {_version()}",
        origin=Origin(model=checkpoint.origin, revision=checkpoint.revision, licence=licence),
        recipe=request.recipe.name,
        recipe_rules=msgspec.Raw(msgspec.json.encode(request.recipe)),
        target=request.target,
        capabilities=tuple(capabilities),
        model=config,
        graphs={name: artifact.graph for name, artifact in artifacts.items() if artifact.graph},
        tables={name: artifact.table for name, artifact in artifacts.items() if artifact.table},
        files=_files(bundle, artifacts),
        measured=None,
        quality=_quality(request),
        not_measured=None,
    )


def _quality(request: ExportRequest) -> Quality | None:
    """Return the scores of the checkpoint, unless the request changes what was measured."""
    checkpoint, rules = request.checkpoint, request.recipe.graphs
    changed = checkpoint.adapter or checkpoint.speech_from or checkpoint.mute
    fitted = any(nbits.searched(rule) for name in ("thinker", "talker") for rule in rules[name])
    if changed or (fitted and request.calibration != second_moments.text_for(checkpoint.folder)):
        return None
    return quality.measured(checkpoint.folder, request.recipe)


def _files(bundle: Path, artifacts: dict[str, Finished]) -> dict[str, FileEntry]:
    """Return an entry for each file. Files of artifacts have been hashed already."""
    known = {
        name: entry for artifact in artifacts.values() for name, entry in artifact.files.items()
    }
    paths = sorted(path for path in bundle.rglob("*") if path.is_file())
    names = {path.relative_to(bundle).as_posix(): path for path in paths}
    return {name: known.get(name) or file_entry(path) for name, path in names.items()}


def _version() -> str:
    try:
        return metadata.version("pocket-omni")
    except metadata.PackageNotFoundError:  # run from a checkout without installing
        return "from source"


class _Listed(Struct):
    """The part of a manifest that every bundle format has."""

    exporter: str
    files: dict[str, FileEntry]


def check_destination(destination: Path) -> None:
    """Raise UsageError if a bundle cannot be written to the destination."""
    StagedFolder(destination).check()
    _check_replaceable(destination)


def _check_replaceable(destination: Path) -> None:
    """Raise UsageError unless the destination is missing, empty, or only a bundle."""
    fix = "move it away, or give another --output"
    if not destination.exists() or (destination.is_dir() and not any(destination.iterdir())):
        return
    try:
        listed = msgspec.json.decode((destination / FILE_NAME).read_bytes(), type=_Listed).files
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        raise UsageError(f"{destination} exists and is not a bundle", fix=fix) from None
    if unlisted := next(unlisted_files(destination, {FILE_NAME, DIGEST_NAME, *listed}), None):
        raise UsageError(f"{unlisted} is not part of the existing bundle", fix=fix)


@contextmanager
def _staged(destination: Path) -> Generator[StagedFolder]:
    """Open the staging folder. It is removed at the end unless a failed export left artifacts.

    Raises UsageError if the destination cannot be replaced, or if another export is writing it.
    """
    staged = StagedFolder(destination)
    with _locked(staged, destination) as lock:
        kept = 0
        try:
            _check_replaceable(destination)
            shutil.rmtree(staged.folder / SCRATCH, ignore_errors=True)
            yield staged
        except BaseException as stop:
            if kept := finished_artifacts(staged.folder):
                shutil.rmtree(staged.folder / SCRATCH, ignore_errors=True)
                stop.add_note(
                    f"{kept} finished artifacts are kept in {staged.folder} for the same command"
                )
            raise
        finally:
            if not kept:
                if sys.platform == "win32":
                    lock.release()  # an open file cannot be removed
                staged.remove()


@contextmanager
def _locked(staged: StagedFolder, destination: Path) -> Generator[BaseFileLock]:
    """Lock the staging folder, and open it."""
    staged.prepare()
    lock = FileLock(staged.folder / LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError(
            f"another export to {destination} is running",
            fix="wait for it, or give another --output",
        ) from None
    try:
        staged.open()
        yield lock
    finally:
        lock.release()


@contextmanager
def _disk_errors(destination: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in EXPECTED_ERRORS:
            raise
        free = shutil.disk_usage(_existing(destination)).free / 2**30
        full = error.errno in (None, errno.ENOSPC)
        failure = OmniError(
            f"{destination} cannot be written: {error.strerror or error}"
            + (f", {free:.1f} GiB are free" if full else ""),
            fix="free some space or give another --output" if full else "give another --output",
        )
        for note in getattr(error, "__notes__", ()):
            failure.add_note(note)
        raise failure from None


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())
