"""Read access to a bundle on disk. Checks that all files exist; loads no graph."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from omni_runtime.arrays import FloatArray
from omni_runtime.bundle import manifest_checks
from omni_runtime.bundle.config import SolverPreset
from omni_runtime.bundle.contracts import CacheType
from omni_runtime.bundle.manifest import EXPORT_AGAIN, Manifest, read_manifest
from omni_runtime.bundle.tables import Table
from omni_runtime.checksums import sha256_of
from omni_runtime.errors import BundleError, UsageError

TOKENIZER = "tokenizer.json"
CHAT_TEMPLATE = "chat_template.jinja"
LICENCE = "LICENSE"


def voice_file(name: str) -> str:
    """Return the file of a voice: float32 (2, hidden), added to each frame of the two branches."""
    return f"voices/{name}.npy"


def modulation_file(preset: str) -> str:
    """Return the file of a preset's time modulation: float32 (times, layers * 6 + 2, hidden)."""
    return f"tables/modulation_{preset}.npy"


class Bundle:
    """The files of one bundle: graphs, tables, voices, texts."""

    def __init__(self, folder: str | Path) -> None:
        """Read the manifest. Raises BundleError for a missing file or one of the wrong size."""
        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(self.folder)
        manifest_checks.check(self.manifest, self.folder)
        self.config = self.manifest.model
        for name, entry in self.manifest.files.items():
            path = self.folder / name
            if not path.is_file():
                raise BundleError(f"{self.folder} lacks {name}", fix=EXPORT_AGAIN)
            if path.stat().st_size != entry.bytes:
                raise BundleError(
                    f"{path} has {path.stat().st_size} bytes instead of {entry.bytes}",
                    fix=EXPORT_AGAIN,
                )

    def verify(self) -> Iterator[tuple[str, bool]]:
        """Compute the SHA-256 of every file; yield (name, unchanged)."""
        for name, entry in self.manifest.files.items():
            yield name, sha256_of(self.folder / name) == entry.sha256

    def graph_path(self, name: str, cache: CacheType = "float32") -> Path:
        """Return the ONNX file of a graph; for a decoder, the one with this type of KV cache.

        Raises UsageError when it was not exported.
        """
        entry = self.manifest.graphs[name]
        if cache == "float32":
            return self.folder / entry.file
        if entry.int8_cache is None:
            why = self.manifest.not_measured or "there was not enough memory to calibrate it"
            raise UsageError(
                f"{self.folder} has no {name} with an {cache} KV cache: {why}",
                fix='use kv_cache="float32", or export the bundle again with more free memory',
                code="no_int8_cache",
            )
        return self.folder / entry.int8_cache

    def table(self, name: str) -> Table:
        """Return a memory-mapped table: thinker_embedding, talker_embedding or dit_code."""
        return Table(self.folder, self.manifest.tables[name])

    def voice(self, name: str) -> FloatArray:
        """Return a voice, float32 (2, hidden): the guided branch, then the null branch."""
        return self._array(voice_file(name))

    def modulation(self, preset: str) -> FloatArray:
        """Return a preset's modulation, float32 (distinct times, layers * 6 + 2, hidden)."""
        return self._array(modulation_file(preset))

    def preset(self, name: str) -> SolverPreset:
        """Return a speech preset of this bundle."""
        assert self.config.speech is not None
        return self.config.speech.presets[name]

    def text(self, name: str) -> str:
        """Read a text file of the bundle. Raises BundleError when it cannot be read."""
        try:
            return (self.folder / name).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(
                f"{self.folder / name} cannot be read: {error}", fix=EXPORT_AGAIN
            ) from None

    def _array(self, name: str) -> FloatArray:
        try:
            return np.load(self.folder / name, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise BundleError(
                f"{self.folder / name} cannot be read: {error}", fix=EXPORT_AGAIN
            ) from None
