"""The export itself: checkpoint in, bundle out, with nothing half done left behind.

Everything is written into a hidden folder beside the destination, which gets its name in one
rename at the very end, after the bundle has spoken its first reply. A killed export leaves only
the hidden folder, and the next one removes it.
"""

import errno
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np

from omni_export import companions, quality, trial
from omni_export.build import build
from omni_export.checkpoint import Array, Checkpoint
from omni_export.graph_files import GraphWriter
from omni_export.hub import LocalCheckpoint
from omni_export.model_config import PRESETS, model_config
from omni_export.networks import TALKER_TABLE, networks
from omni_export.source import SourceConfig, SpeechSource, read_config
from omni_export.speech import (
    DIT,
    THINKER_TABLE,
    InputProjection,
    TimeModulation,
    Voice,
    code_table,
    modulation_times,
    read_voices,
)
from omni_quantize import tables
from omni_quantize.recipe import Recipe
from omni_runtime.bundle.config import ModelConfig
from omni_runtime.bundle.contracts import contracts
from omni_runtime.bundle.manifest import (
    FILE_NAME,
    FORMAT,
    FileEntry,
    GraphEntry,
    Manifest,
    Origin,
    TableEntry,
    sha256_of,
    write_manifest,
)
from omni_runtime.bundle.store import modulation_file, voice_file
from omni_runtime.errors import OmniError, UsageError

DROPPED = {"thinker.audio_tower.audio_bos_eos_token.": "the reference never reads it"}
"""Tensors without use, by name or prefix, with the reason."""

EXPECTED_ERRORS = (None, errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EEXIST, errno.ENOTDIR)
"""What a place can refuse with. Some writers of arrays lose the number."""

OLD = "old"
"""Where an older bundle waits while the new one takes its place."""

SILENT = "config.json switches speech off (enable_audio_output)"

Report = Callable[[int, int, str], None]
"""Called before each step: its number, the number of steps, what it does."""

STEPS_WITH_SPEECH, STEPS_WITHOUT = 8, 5


@dataclass(frozen=True)
class ExportRequest:
    """What to export, how, and to where. `target` is a CPU family, resolved."""

    checkpoint: LocalCheckpoint
    recipe: Recipe
    target: str
    destination: Path


@dataclass(frozen=True)
class _Content:
    """What went into a bundle's folder."""

    config: ModelConfig
    graphs: dict[str, GraphEntry]
    tables: dict[str, TableEntry]
    licence: str


def export(request: ExportRequest, report: Report) -> Manifest:
    """Write the bundle to `request.destination`, replacing an older bundle of that name.

    Raises:
        UsageError: the destination exists and is no bundle, or the model is not supported.
        OmniError: the checkpoint is incomplete or damaged, or the disk is full.
    """
    destination = request.destination
    if destination.exists() and not (destination / FILE_NAME).exists():
        raise UsageError(f"{destination} exists and is no bundle", fix="give another --output")
    with _disk_errors(destination), _hidden_folder(destination) as hidden:
        bundle, scratch = hidden / "bundle", hidden / "scratch"
        bundle.mkdir()
        content = _fill(request, bundle, scratch, report)
        shutil.rmtree(scratch, ignore_errors=True)
        manifest = _manifest(request, content, bundle)
        write_manifest(manifest, bundle)
        steps = STEPS_WITH_SPEECH if content.config.speech else STEPS_WITHOUT
        report(steps, steps, "first reply")
        manifest = msgspec.structs.replace(manifest, measured=trial.first_reply(bundle))
        write_manifest(manifest, bundle)
        _swap(bundle, destination, hidden)
    return manifest


def _fill(request: ExportRequest, bundle: Path, scratch: Path, report: Report) -> _Content:
    folder = request.checkpoint.folder
    source = read_config(folder)
    writer = GraphWriter(bundle, scratch, request.recipe, request.target)
    graphs: dict[str, GraphEntry] = {}
    steps = STEPS_WITH_SPEECH if source.speech else STEPS_WITHOUT
    with Checkpoint(folder) as checkpoint:
        checkpoint.drop(DROPPED)
        if source.speech is None:
            checkpoint.drop({"talker.": SILENT, "token2wav.": SILENT})
        report(1, steps, "tables and voices")
        voices, frequencies, stored = _write_constants(request, bundle, checkpoint, source)
        config = model_config(folder, source, voices, frequencies)
        for network in networks(source, checkpoint):
            report(len(graphs) + 2, steps, network.name.replace("_", " "))
            contract = contracts(config)[network.name]
            model = build(network, contract, checkpoint)
            graphs[network.name] = writer.write(network.name, model, contract, config)
        checkpoint.settle()
    return _Content(config, graphs, stored, companions.copy(folder, bundle))


def _write_constants(
    request: ExportRequest, bundle: Path, checkpoint: Checkpoint, source: SourceConfig
) -> tuple[dict[str, Voice], Array | None, dict[str, TableEntry]]:
    """Embedding tables, and what the speech path computes once."""
    stored: dict[str, TableEntry] = {}

    def table(name: str, shape: tuple[int, int], rows: tables.Rows) -> None:
        encoding = request.recipe.tables[name].encoding
        stored[name] = tables.write(bundle, name, shape, rows, encoding)

    shape = (source.text.vocab_size, source.text.hidden_size)
    table("thinker_embedding", shape, checkpoint.claim(THINKER_TABLE, shape, "table").rows)
    if (speech := source.speech) is None:
        return {}, None, stored
    shape = (speech.talker.vocab_size, speech.talker_ids.embedding_size)
    table("talker_embedding", shape, checkpoint.claim(TALKER_TABLE, shape).rows)
    projection = InputProjection(checkpoint, speech.dit)
    codes = code_table(checkpoint, speech.dit, projection)
    shape = (len(codes), speech.dit.hidden_size)
    table("dit_code", shape, lambda start, stop: codes[start:stop])
    voices = _write_voices(request, bundle, checkpoint, speech, projection)
    modulation = TimeModulation(checkpoint, speech.dit)
    for name, preset in PRESETS.items():
        np.save(bundle / modulation_file(name), modulation.table(modulation_times(preset)))
    half = (speech.dit.head_dim // 2,)
    return voices, checkpoint.claim(DIT + "rotary_embed.inv_freq", half).read(), stored


def _write_voices(
    request: ExportRequest,
    bundle: Path,
    checkpoint: Checkpoint,
    speech: SpeechSource,
    projection: InputProjection,
) -> dict[str, Voice]:
    path = request.checkpoint.folder / "spk_dict.pt"
    voices = read_voices(path, checkpoint, speech, projection)
    for name, voice in voices.items():
        (bundle / voice_file(name)).parent.mkdir(exist_ok=True)
        np.save(bundle / voice_file(name), voice.condition)
    return voices


def _manifest(request: ExportRequest, content: _Content, bundle: Path) -> Manifest:
    """The manifest of a bundle that has not been tried yet; it is sealed when it is written."""
    checkpoint = request.checkpoint
    capabilities = ["text"]
    capabilities += ["audio"] if content.config.audio else []
    capabilities += ["image", "video"] if content.config.vision else []
    capabilities += ["speech"] if content.config.speech else []
    return Manifest(
        format=FORMAT,
        name=request.destination.name,
        exporter=f"pocket-omni {_version()}",
        origin=Origin(
            model=checkpoint.model, revision=checkpoint.revision, licence=content.licence
        ),
        recipe=request.recipe.name,
        recipe_rules=msgspec.Raw(msgspec.json.encode(request.recipe)),
        target=request.target,
        capabilities=tuple(capabilities),
        model=content.config,
        graphs=content.graphs,
        tables=content.tables,
        files={
            path.relative_to(bundle).as_posix(): FileEntry(
                bytes=path.stat().st_size, sha256=sha256_of(path)
            )
            for path in sorted(bundle.rglob("*"))
            if path.is_file()
        },
        measured=None,
        quality=quality.measured(checkpoint.folder, request.recipe),
        digest="",
    )


def _version() -> str:
    try:
        return metadata.version("pocket-omni")
    except metadata.PackageNotFoundError:  # run from a checkout without installing
        return "from source"


@contextmanager
def _hidden_folder(destination: Path) -> Generator[Path]:
    """A folder beside the destination, gone afterwards in any case."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    hidden = destination.parent / f".{destination.name}.partial"
    if (hidden / OLD / FILE_NAME).exists() and not destination.exists():
        (hidden / OLD).rename(destination)  # killed between the two renames of an earlier swap
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir()
    try:
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


@contextmanager
def _disk_errors(destination: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in EXPECTED_ERRORS:
            raise
        free = shutil.disk_usage(_existing(destination)).free / 2**30
        full = error.errno in (None, errno.ENOSPC)
        raise OmniError(
            f"{destination} can't be written: {error.strerror or error}"
            + (f", {free:.1f} GiB are free" if full else ""),
            fix="free some space or give another --output" if full else "give another --output",
        ) from None


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())


def _swap(bundle: Path, destination: Path, hidden: Path) -> None:
    """Put the new bundle in the place of an older one, which stays until the new one is there."""
    old = hidden / OLD
    if destination.exists():
        destination.rename(old)
    try:
        bundle.rename(destination)
    except OSError:
        if old.exists():
            old.rename(destination)
        raise
