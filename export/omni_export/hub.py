"""Find a checkpoint: a local folder, or a download from the Hugging Face hub."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from omni_export.source import read_bytes
from omni_runtime.errors import OmniError, UsageError

PATTERNS = ["*.json", "*.safetensors", "*.pt", "*.txt", "*.jinja", "LICENSE*", "NOTICE*"]
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class LocalCheckpoint:
    """A checkpoint on disk. `model` is its name or hub id, `revision` identifies its content."""

    folder: Path
    model: str
    revision: str

    @property
    def name(self) -> str:
        """A short name for the bundle folder, valid on all systems."""
        return self.model.rstrip("/").split("/")[-1].lower().replace(":", "-")


def resolve(model: str) -> LocalCheckpoint:
    """Find a checkpoint folder, or download a hub id, resuming an earlier download.

    Raises UsageError for a name that is neither a folder nor a hub id, OmniError if the download
    fails.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return LocalCheckpoint(folder, folder.resolve().name, _revision(folder))
    if folder.exists() or not HUB_ID.fullmatch(model):
        raise UsageError(
            f"{model!r} is neither a checkpoint folder nor a hub id",
            fix="for example --model Qwen/Qwen2.5-Omni-3B",
        )
    return _download(model)


def _download(model: str) -> LocalCheckpoint:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only needed for a hub id

    try:
        folder = Path(snapshot_download(model, allow_patterns=PATTERNS))
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise OmniError(
            f"{model} cannot be downloaded: {reason}",
            fix="check the name and the network; the same command resumes the download",
        ) from None
    return LocalCheckpoint(folder, model, folder.name)


def _revision(folder: Path) -> str:
    """Return a fast digest of config.json and of the names and sizes of the weight files."""
    digest = hashlib.sha256(read_bytes(folder / "config.json"))
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]
