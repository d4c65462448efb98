"""The manifest of a bundle: origin, configuration, files, and measurements.

`manifest.sha256` holds the digest of `manifest.json`, which holds the digests of all other files. A
changed byte in any file is therefore detected.
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

FORMAT = 6
"""Increased by each change that makes older bundles or older runtimes incompatible."""

FILE_NAME = "manifest.json"
DIGEST_NAME = digest_file(FILE_NAME)
EXPORT_AGAIN = "export the bundle again"


class _Record(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base class: immutable, keyword-only, unknown keys are errors."""


class Origin(_Record, frozen=True):
    """The checkpoint of a bundle. `revision` is a hub commit or a digest of its files."""

    model: str
    revision: str
    licence: str


class QuantizationError(_Record, frozen=True):
    """Error of a quantized graph or table, compared with float32.

    `of` is what was compared. "outputs": outputs of the whole graph on the same inputs. "products":
    products of random rows with each quantized matrix, for graphs that are too large to run twice;
    it does not include errors that accumulate over layers. "rows": rows of a table. `cosine` is the
    cosine similarity, `relative` the largest difference over the largest value.
    """

    of: str
    cosine: float
    relative: float


class GraphEntry(_Record, frozen=True):
    """One ONNX graph. Sizes are in bytes and include external data.

    `seconds` is the time to quantize and write it. `fp32_bytes` is its size with float32 weights.
    `int8_cache` is a second file of a decoder, with the same weights and an int8 KV cache. It is
    None if the cache was not calibrated.
    """

    file: str
    contract: GraphContract
    weights: str
    fp32_bytes: int
    bytes: int
    error: QuantizationError | None
    seconds: float
    int8_cache: str | None = None


class TableEntry(_Record, frozen=True):
    """One memory-mapped table. `encoding` is float32, bfloat16, or int8 with one scale per row."""

    file: str
    scales: str | None
    encoding: str
    rows: int
    columns: int
    error: QuantizationError | None


class FileEntry(_Record, frozen=True):
    """Size in bytes and SHA-256 of one file."""

    bytes: int
    sha256: str


class Measured(_Record, frozen=True):
    """Cost of one spoken reply on the machine of the export, in bytes and seconds.

    `first_text` is None if no token of the reply had text: models with random weights choose among
    more ids than their tokenizer has.
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
"""Scores by test ("typed", "speech PRESET streamed") and name, as fractions of 1."""


class Manifest(_Record, frozen=True):
    """Description of a bundle.

    `measured` is the cost of the first reply at the export; if there was none, `not_measured` is
    the reason.
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
    """Write an indented manifest and its digest."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    write_with_digest(folder / FILE_NAME, text + b"\n")


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of the bundle in `folder` and check its digest.

    Raises BundleError when it is missing, damaged, changed, or of another format.
    """
    path = folder / FILE_NAME
    with suppress(OSError):  # on failure the next check reports a missing bundle
        recover(folder)  # an export may have been killed while it replaced the bundle
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
            f"{folder} has no {FILE_NAME}, so it is not a bundle", fix=EXPORT_AGAIN
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
                f"{folder} has format {version}, but this runtime reads up to {FORMAT}",
                fix="update pocket-omni",
                code="newer_bundle",
            )
        if version < FORMAT:
            raise BundleError(
                f"{folder} has the older format {version}, but this runtime reads {FORMAT}",
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
