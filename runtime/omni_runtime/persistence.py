"""A conversation on disk: its messages as JSON, its KV caches beside them.

Knows files, not turns: what the fields mean is the conversation's business. A save appears whole
or not at all, and is read back only for the bundle it was made with, byte for byte as written.
Media are not kept: the caches hold what the model took from them.
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

from omni_runtime.atomic_folder import AWAY, StagedFolder, recover, strangers
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
    """A conversation without its model and its context. `context` is the length asked for."""

    messages: list[Message]
    turns: list[Turn]
    context: int | None
    last_tokens: list[int]


class _SavedPart(Struct, frozen=True):
    """A text, or the path of a medium, empty where it had none."""

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
    """Write a conversation at rest into `folder`, replacing an older save there.

    Raises UsageError when the folder is something else, OmniError when it can't be written.
    """
    with _replacing(folder) as hidden:
        context.save(hidden)
        record = _Record(
            format=FORMAT,
            bundle=model.bundle.manifest.name,
            fingerprint=_fingerprint(model),
            messages=[_message_out(message) for message in saved.messages],
            turns=saved.turns,
            context=saved.context,
            last_tokens=saved.last_tokens,
            files={path.name: sha256_of(path) for path in sorted(hidden.iterdir())},
        )
        text = msgspec.json.format(msgspec.json.encode(record)) + b"\n"
        write_with_digest(hidden / RECORD, text)


def read(folder: Path, model: Model) -> tuple[Saved, Callable[[int | None], Context]]:
    """Read a conversation: its record, and what loads its context with a limit of tokens.

    Raises OmniError for another bundle's conversation, a damaged one, or none at all.
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
                f"{folder} is of format {version}, this runtime reads {FORMAT}",
                fix="update pocket-omni" if version > FORMAT else START_ANEW,
            )
        if not matches_digest(folder / RECORD, text):
            raise _damaged(folder / RECORD)
        return msgspec.json.decode(text, type=_Record)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        raise _damaged(folder / RECORD) from None


def _damaged(path: Path) -> OmniError:
    return OmniError(f"{path} is missing, or not as it was saved", fix=START_ANEW)


def _fingerprint(model: Model) -> str:
    """Tells bundles apart by the content of their files."""
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
    """Yield an empty folder that replaces `folder` at the end, and is removed after a failure.

    Raises UsageError when `folder` holds anything but a save.
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
    """What a save of any format tells about its files."""

    fingerprint: str
    files: dict[str, str]


def _check_replaceable(folder: Path) -> None:
    """Raise UsageError unless a folder is missing, empty, or a save and nothing else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        listed = msgspec.json.decode((folder / RECORD).read_bytes(), type=_Listed).files
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        raise UsageError(
            f"{folder} exists and is no saved conversation", fix="give another name"
        ) from None
    if stranger := next(strangers(folder, {RECORD, digest_file(RECORD), *listed}), None):
        raise UsageError(f"{stranger} is not part of the saved conversation", fix=AWAY)
