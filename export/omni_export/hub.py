"""Where a checkpoint comes from: a folder, the Hugging Face hub, or random numbers."""

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
    """A checkpoint on disk. `model` is what the user named, `revision` identifies its content."""

    folder: Path
    model: str
    revision: str

    @property
    def name(self) -> str:
        """A short name for the bundle's folder, on any system."""
        return self.model.rstrip("/").split("/")[-1].lower().replace(":", "-")


def resolve(model: str) -> LocalCheckpoint:
    """Find a checkpoint; a hub id is downloaded, continuing an earlier attempt.

    Raises UsageError for a name that is neither a folder nor a hub id, OmniError when the
    download fails.
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
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only a hub id needs it

    try:
        folder = Path(snapshot_download(model, allow_patterns=PATTERNS))
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise OmniError(
            f"{model} can't be downloaded: {reason}",
            fix="check the name and the network; the same command continues where it stopped",
        ) from None
    return LocalCheckpoint(folder, model, folder.name)


def _revision(folder: Path) -> str:
    """A digest over names and sizes of the weights and over config.json: cheap, and tells apart."""
    digest = hashlib.sha256(read_bytes(folder / "config.json"))
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]
