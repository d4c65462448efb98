"""Save and load conversations: messages as JSON, KV caches as arrays.

The fields are interpreted by `conversation.py`. A save is atomic. It loads only with the bundle
that wrote it, and only if all files are unchanged. Media are not saved: the KV caches contain them.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import Struct

from omni_runtime.atomic_folder import MOVE_AWAY, StagedFolder, recover, unlisted_files
from omni_runtime.checksums import digest_file, matches_digest, sha256_of, write_with_digest
from omni_runtime.context import Context
from omni_runtime.errors import OmniError, UsageError
from omni_runtime.inputs.messages import (
    Audio,
    ContentPart,
    Image,
    Message,
    Role,
    Text,
    Video,
    kind_of,
)
from omni_runtime.model import Model
from omni_runtime.turns import Turn

FORMAT = 3
RECORD = "conversation.json"
START_ANEW = "start a new conversation"


@dataclass(frozen=True)
class Saved:
    """A conversation without model and caches. `context` is the requested length in tokens."""

    messages: list[Message]
    turns: list[Turn]
    context: int | None
    last_tokens: list[int]


class _SavedPart(Struct, frozen=True):
    """A text, or the path of media, empty for other sources."""

    kind: str
    text: str


class _SavedMessage(Struct, frozen=True):
    role: Role
    parts: list[_SavedPart]


class _Record(Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    bundle: str
    fingerprint: str
    messages: list[_SavedMessage]
    turns: list[Turn]
    context: int | None
    last_tokens: list[int]
    files: dict[str, str]


class _Version(Struct):
    format: int


def write(folder: Path, saved: Saved, context: Context, model: Model) -> None:
    """Write an idle conversation to `folder`, replacing an older save.

    Raises UsageError when the folder holds other files, OmniError when it cannot be written.
    """
    with _replacing(folder) as staging:
        context.save(staging)
        record = _Record(
            format=FORMAT,
            bundle=model.bundle.manifest.name,
            fingerprint=_fingerprint(model),
            messages=[_message_out(message) for message in saved.messages],
            turns=saved.turns,
            context=saved.context,
            last_tokens=saved.last_tokens,
            files={path.name: sha256_of(path) for path in sorted(staging.iterdir())},
        )
        text = msgspec.json.format(msgspec.json.encode(record)) + b"\n"
        write_with_digest(staging / RECORD, text)


def read(folder: Path, model: Model) -> tuple[Saved, Callable[[int | None], Context]]:
    """Read a conversation; return it, and a function that loads its context with a token limit.

    Raises OmniError when it is missing, damaged, or was saved with another bundle.
    """
    try:
        recover(folder)
    except OSError as error:
        raise OmniError(
            f"{folder} cannot be recovered: {error.strerror}", fix="check the permissions beside it"
        ) from None
    record = _read_record(folder)
    if record.fingerprint != _fingerprint(model):
        raise OmniError(
            f"{folder} was saved with another bundle: {record.bundle}",
            fix=f"load it with the bundle {record.bundle}, or {START_ANEW}",
            code="other_bundle",
            details={"bundle": record.bundle},
        )
    for name, sha256 in record.files.items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != sha256:
            raise _damaged(path)
    for path in folder.glob("*.npz"):
        if path.name not in record.files:
            raise _damaged(path)
    saved = Saved(
        messages=[_message_in(message) for message in record.messages],
        turns=record.turns,
        context=record.context,
        last_tokens=record.last_tokens,
    )
    return saved, lambda limit: Context.load(folder, model, limit)


def _read_record(folder: Path) -> _Record:
    try:
        text = (folder / RECORD).read_bytes()
    except OSError:
        raise OmniError(f"{folder} holds no saved conversation", fix="check the name") from None
    try:
        version = msgspec.json.decode(text, type=_Version).format
        if version != FORMAT:
            raise OmniError(
                f"{folder} has format {version}, but this runtime reads {FORMAT}",
                fix="update pocket-omni" if version > FORMAT else START_ANEW,
            )
        if not matches_digest(folder / RECORD, text):
            raise _damaged(folder / RECORD)
        return msgspec.json.decode(text, type=_Record)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        raise _damaged(folder / RECORD) from None


def _damaged(path: Path) -> OmniError:
    return OmniError(f"{path} is missing or was changed after the save", fix=START_ANEW)


def _fingerprint(model: Model) -> str:
    """Return a digest of all files of the bundle."""
    files = sorted((name, entry.sha256) for name, entry in model.bundle.manifest.files.items())
    return hashlib.sha256(msgspec.json.encode(files)).hexdigest()


def _message_out(message: Message) -> _SavedMessage:
    return _SavedMessage(message.role, [_part_out(part) for part in message.parts])


def _part_out(part: ContentPart) -> _SavedPart:
    if isinstance(part, Text):
        return _SavedPart("text", part.text.encode("utf-8", "replace").decode("utf-8"))
    source = part.source
    path = str(Path(source).absolute()) if isinstance(source, str | os.PathLike) else ""
    return _SavedPart(kind_of(part), path.encode("utf-8", "replace").decode("utf-8"))


def _message_in(message: _SavedMessage) -> Message:
    return Message(message.role, [_part_in(part) for part in message.parts])


def _part_in(part: _SavedPart) -> ContentPart:
    if part.kind == "text":
        return Text(part.text)
    source = Path(part.text) if part.text else b""
    return {"image": Image, "audio": Audio, "video": Video}[part.kind](source)


@contextmanager
def _replacing(folder: Path) -> Generator[Path]:
    """Yield an empty staging folder. Replace `folder` on success, remove the staging on failure.

    Raises UsageError when `folder` holds files that are not part of a save.
    """
    staged = StagedFolder(folder)
    try:
        staged.open()
        try:
            _check_replaceable(folder)
            shutil.rmtree(staged.new, ignore_errors=True)
            staged.new.mkdir()
            yield staged.new
            _check_replaceable(folder)
            staged.commit()
        finally:
            staged.remove()
    except OSError as error:
        raise OmniError(
            f"{folder} cannot be written: {error.strerror}",
            fix="free some space, or give another name",
        ) from None


class _Listed(Struct):
    """The list of files of a save, in every format."""

    fingerprint: str
    files: dict[str, str]


def _check_replaceable(folder: Path) -> None:
    """Raise UsageError unless a folder is missing, empty, or holds only a save."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        listed = msgspec.json.decode((folder / RECORD).read_bytes(), type=_Listed).files
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        raise UsageError(
            f"{folder} exists and is not a saved conversation", fix="give another name"
        ) from None
    if unlisted := next(unlisted_files(folder, {RECORD, digest_file(RECORD), *listed}), None):
        raise UsageError(f"{unlisted} is not part of the saved conversation", fix=MOVE_AWAY)
