"""The manifest: what a bundle is, where it comes from, what its files are and what it costs.

It is the only file that describes the others. `manifest.sha256` holds the digest of its bytes, and
it holds those of all other files, so a changed byte anywhere is found.
"""

from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from omni_runtime.atomic_folder import recover
from omni_runtime.bundle.config import ModelConfig
from omni_runtime.bundle.contracts import GraphContract
from omni_runtime.checksums import digest_file, matches_digest, write_with_digest
from omni_runtime.errors import BundleError

FORMAT = 5
"""Raised whenever an older runtime could misread a newer bundle, or the other way round."""

FILE_NAME = "manifest.json"
DIGEST_NAME = digest_file(FILE_NAME)
EXPORT_AGAIN = "export the bundle again"


class _Record(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Common settings: immutable, keyword only, unknown keys refused."""


class Origin(_Record, frozen=True):
    """The checkpoint a bundle was made of. `revision` is a hub commit or a digest of its files."""

    model: str
    revision: str
    licence: str


class GraphError(_Record, frozen=True):
    """How far something quantized is from its float32 twin.

    `of` says what was compared: "outputs" of the whole graph run on the same inputs; "products"
    of random rows and each quantized matrix by itself, where a graph is too large to be run
    twice (errors that add up over layers are not in it); or "rows" of a table. `cosine` is the
    cosine similarity, `relative` the largest difference over the largest value.
    """

    of: str
    cosine: float
    relative: float


class GraphEntry(_Record, frozen=True):
    """One ONNX graph. Sizes in bytes, with external data; `seconds` to quantize and write it.

    `fp32_bytes` is what it would take with all weights in float32. `int8_cache` is a second file
    of a decoder, with the same weights and a KV cache of int8; None where it was not calibrated.
    """

    file: str
    contract: GraphContract
    weights: str
    fp32_bytes: int
    bytes: int
    error: GraphError | None
    seconds: float
    int8_cache: str | None = None


class TableEntry(_Record, frozen=True):
    """One memory-mapped table. `encoding` is float32, bfloat16 or int8 (with row scales)."""

    file: str
    scales: str | None
    encoding: str
    rows: int
    columns: int
    error: GraphError | None


class FileEntry(_Record, frozen=True):
    """Size in bytes and SHA-256 of one file."""

    bytes: int
    sha256: str


class Measured(_Record, frozen=True):
    """What one spoken reply cost on the machine of the export. Bytes and seconds.

    `first_text` is None where no token of the reply had a text: random weights choose among more
    ids than their tokenizer knows.
    """

    machine: str
    onnxruntime: str
    threads: int
    peak_memory: int
    load: float
    first_text: float | None
    first_audio: float | None
    realtime_factor: float | None


Quality = dict[str, dict[str, float]]
"""For each exam ("typed", "speech PRESET streamed") its scores by name, as shares."""


class Manifest(_Record, frozen=True):
    """Everything about a bundle.

    `measured` is what the first reply took at the export; where none was tried, `not_measured`
    says why.
    """

    format: int
    name: str
    exporter: str
    origin: Origin
    recipe: str
    recipe_rules: msgspec.Raw
    target: str
    capabilities: tuple[str, ...]
    model: ModelConfig
    graphs: dict[str, GraphEntry]
    tables: dict[str, TableEntry]
    files: dict[str, FileEntry]
    measured: Measured | None
    quality: Quality | None
    not_measured: str | None


class _Version(Struct):
    format: int


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write a manifest, readable by people, and its digest."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    write_with_digest(folder / FILE_NAME, text + b"\n")


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of the bundle in `folder`.

    Raises BundleError when it is missing, damaged, changed, or of another format.
    """
    path = folder / FILE_NAME
    with suppress(OSError):  # what cannot be recovered is not there, as the next line says
        recover(folder)  # an export was killed while it replaced the bundle
    if not folder.is_dir():
        raise BundleError(
            f"there is no bundle at {folder}",
            fix="check the path, or export a checkpoint there",
            code="no_bundle",
        )
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise BundleError(
            f"{folder} has no {FILE_NAME}, so it is no bundle", fix=EXPORT_AGAIN
        ) from None
    except OSError as error:
        raise BundleError(
            f"{path} cannot be read: {error.strerror}",
            fix="check its permissions",
            code="unreadable_bundle",
        ) from None
    try:
        version = msgspec.json.decode(text, type=_Version).format
        if version > FORMAT:
            raise BundleError(
                f"{folder} is of format {version}, this runtime reads up to {FORMAT}",
                fix="update pocket-omni",
                code="newer_bundle",
            )
        if version < FORMAT:
            raise BundleError(
                f"{folder} is of the older format {version}, this runtime reads {FORMAT}",
                fix=EXPORT_AGAIN,
            )
        _check_digest(folder, text)
        return msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is damaged: {error}", fix=EXPORT_AGAIN) from None


def _check_digest(folder: Path, text: bytes) -> None:
    path = folder / FILE_NAME
    try:
        unchanged = matches_digest(path, text)
    except OSError:
        raise BundleError(f"{folder} lacks {DIGEST_NAME}", fix=EXPORT_AGAIN) from None
    if not unchanged:
        raise BundleError(f"{path} was changed after the export", fix=EXPORT_AGAIN)
