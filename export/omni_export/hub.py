"""Find a checkpoint: a folder, a cache of a hub, or a download from Hugging Face or ModelScope.

Before weights are downloaded, the small files are, so that a model that cannot be exported costs
nothing. What a cache has is used without a network.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni_export import packed
from omni_export.source import read_bytes, read_config, read_json
from omni_export.weight_files import MODEL, index_of
from omni_runtime.errors import OmniError, UsageError

SMALL = [
    *("config.json", "quantize_config.json", "quant_config.json"),
    *("adapter_config.json", "generation_config.json", "LICENSE*"),
    *(f"{file}.index.json" for file in MODEL),
]
TEXTS = ["*.json", "*.txt", "*.jinja", "LICENSE*", "NOTICE*"]
WEIGHTS = ["*.safetensors", "*.pt"]
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
MODELSCOPE = "modelscope:"
NETWORK = "check the name and the network; the same command resumes the download"


@dataclass(frozen=True)
class LocalCheckpoint:
    """A checkpoint on disk. `model` is its name or hub id, `revision` identifies its content.

    `adapter`: a LoRA to merge. `speech_from`: the checkpoint that has the speech. `mute`: leave
    speech out.
    """

    folder: Path
    model: str
    revision: str
    adapter: Path | None = None
    speech_from: Path | None = None
    mute: bool = False

    @property
    def name(self) -> str:
        """A short name for the bundle folder, valid on all systems."""
        return self.model.rstrip("/").split("/")[-1].lower().replace(":", "-")

    @property
    def origin(self) -> str:
        """Where the weights come from, for the manifest."""
        parts = [self.model]
        parts += [f"adapter {self.adapter.resolve().name}"] if self.adapter else []
        parts += [f"speech of {self.speech_from.resolve().name}"] if self.speech_from else []
        return " + ".join(parts)

    @property
    def folders(self) -> tuple[Path, ...]:
        """All folders that the bundle depends on."""
        more = [folder for folder in (self.adapter, self.speech_from) if folder is not None]
        return (self.folder, *more)

    @property
    def speech_folder(self) -> Path:
        """The folder with the voices."""
        return self.speech_from or self.folder


def resolve(model: str, *, weights: bool = True) -> LocalCheckpoint:
    """Find a checkpoint folder, or download a hub id, resuming an earlier download.

    Without `weights` only the small files of a hub id are downloaded. Raises UsageError for a name
    that is neither a folder nor a hub id or a model that cannot be exported, OmniError if the
    download fails.
    """
    folder = _snapshot_of(Path(model).expanduser())
    if folder.is_dir():
        name = folder.parents[1].name.replace("--", "/") if _is_snapshot(folder) else ""
        return LocalCheckpoint(
            folder, name.removeprefix("models/") or folder.resolve().name, _revision(folder)
        )
    modelscope = model.startswith(MODELSCOPE)
    if folder.exists() or not HUB_ID.fullmatch(model.removeprefix(MODELSCOPE)):
        raise UsageError(
            f"{model!r} is neither a checkpoint folder nor a hub id",
            fix="for example --model Qwen/Qwen2.5-Omni-3B",
        )
    return _modelscope(model, weights) if modelscope else _hugging_face(model, weights)


def _is_snapshot(folder: Path) -> bool:
    return folder.parent.name == "snapshots" and folder.parents[1].name.startswith("models--")


def _snapshot_of(folder: Path) -> Path:
    """Return the snapshot that a folder of the Hugging Face cache (models--...) refers to."""
    if not (folder / "snapshots").is_dir():
        return folder
    try:
        return folder / "snapshots" / (folder / "refs" / "main").read_text("utf-8").strip()
    except OSError:
        found = sorted((folder / "snapshots").iterdir(), key=lambda path: path.stat().st_mtime)
        return found[-1] if found else folder


def _hugging_face(model: str, weights: bool) -> LocalCheckpoint:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only needed for a hub id

    def get(patterns: list[str]) -> Path:
        return Path(snapshot_download(model, allow_patterns=patterns))

    folder = _downloaded(model, get, weights)
    return LocalCheckpoint(folder, model, folder.name)


def _modelscope(model: str, weights: bool) -> LocalCheckpoint:
    name = model.removeprefix(MODELSCOPE)
    if (cached := _modelscope_cache(name)) is not None and _complete(cached):
        return LocalCheckpoint(cached, name, _revision(cached))
    try:
        from modelscope import (  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
            snapshot_download,
        )
    except ImportError:
        raise OmniError(
            f"{name} is not in ModelScope's cache, and modelscope is not installed",
            fix="pip install modelscope",
        ) from None
    fetch: Any = snapshot_download

    def get(patterns: list[str]) -> Path:
        return Path(fetch(name, allow_patterns=patterns))

    folder = _downloaded(name, get, weights)
    return LocalCheckpoint(folder, name, _revision(folder))


def _modelscope_cache(name: str) -> Path | None:
    """Return the folder that ModelScope's own tools keep the model in, of any of their versions."""
    home = os.environ.get("MODELSCOPE_CACHE") or Path.home() / ".cache" / "modelscope"
    owner, model = name.split("/")
    for parent in ("models", "hub/models", "hub"):
        for written in (model, model.replace(".", "___")):
            folder = Path(home) / parent / owner / written
            if (folder / "config.json").is_file():
                return folder
    return None


def _downloaded(model: str, get: Any, weights: bool) -> Path:
    """Download the small files, check them, and download the rest. Return the folder."""
    try:
        folder: Path = get(SMALL)
        if not weights:
            return folder
    except Exception as error:
        raise _failed(model, error) from None
    read_config(folder)  # refuse what cannot be exported before its weights are downloaded
    packed.layout_of(read_json(folder / "config.json"), folder)
    try:
        index = index_of(folder)
        pickled = index is not None and any(file.endswith(".bin") for file in index[0].values())
        return get([*TEXTS, *WEIGHTS, *(["*.bin"] if pickled else [])])
    except OmniError:
        raise
    except Exception as error:
        raise _failed(model, error) from None


def _failed(model: str, error: Exception) -> OmniError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return OmniError(f"{model} cannot be downloaded: {reason}", fix=NETWORK)


def _complete(folder: Path) -> bool:
    """Return whether a folder has all the weight files that its index lists."""
    index = index_of(folder)
    files = set(index[0].values()) if index else {"model.safetensors"}
    return all((folder / file).is_file() for file in files)


def _revision(folder: Path) -> str:
    """Return a fast digest of config.json and of the names and sizes of the weight files."""
    digest = hashlib.sha256(read_bytes(folder / "config.json"))
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]
