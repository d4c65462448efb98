"""A bundle on disk, opened for reading. Checks that its files are there; runs nothing."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from omni_runtime.arrays import FloatArray
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
    """File of a voice: float32 (2, hidden), what it adds to each frame of the two branches."""
    return f"voices/{name}.npy"


def modulation_file(preset: str) -> str:
    """File of a preset's time modulation: float32 (times, layers * 6 + 2, hidden)."""
    return f"tables/modulation_{preset}.npy"


class Bundle:
    """The files of one bundle, by meaning."""

    def __init__(self, folder: str | Path) -> None:
        """Raises BundleError when the manifest or a file is missing, or a file has another size."""
        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(self.folder)
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
        """Read every file and compare its SHA-256: (name, unchanged) one by one."""
        for name, entry in self.manifest.files.items():
            yield name, sha256_of(self.folder / name) == entry.sha256

    def graph_path(self, name: str, cache: CacheType = "float32") -> Path:
        """The ONNX file of a graph, of a decoder that with this cache.

        Raises UsageError where it was not exported.
        """
        entry = self.manifest.graphs[name]
        if cache == "float32":
            return self.folder / entry.file
        if entry.int8_cache is None:
            why = self.manifest.not_measured or "there was no room to calibrate it"
            raise UsageError(
                f"{self.folder} has no {name} with a cache of {cache}: {why}",
                fix='use kv_cache="float32", or export the bundle again with more free memory',
                code="no_int8_cache",
            )
        return self.folder / entry.int8_cache

    def table(self, name: str) -> Table:
        """A memory-mapped table: thinker_embedding, talker_embedding or dit_code."""
        return Table(self.folder, self.manifest.tables[name])

    def voice(self, name: str) -> FloatArray:
        """Float32 (2, hidden): row 0 for the guided branch, row 1 for the null branch."""
        return self._array(voice_file(name))

    def modulation(self, preset: str) -> FloatArray:
        """Float32 (distinct times, layers * 6 + 2, hidden), memory-mapped."""
        return self._array(modulation_file(preset))

    def preset(self, name: str) -> SolverPreset:
        """A speech preset that this bundle was made with."""
        assert self.config.speech is not None
        return self.config.speech.presets[name]

    def text(self, name: str) -> str:
        """A text file of the bundle."""
        try:
            return (self.folder / name).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(
                f"{self.folder / name} can't be read: {error}", fix=EXPORT_AGAIN
            ) from None

    def _array(self, name: str) -> FloatArray:
        try:
            return np.load(self.folder / name, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise BundleError(
                f"{self.folder / name} can't be read: {error}", fix=EXPORT_AGAIN
            ) from None
