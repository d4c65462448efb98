"""Files in what a person types: which words of a line name media, and of which kind.

Reads no file, only asks whether it exists. Terminals paste a dropped file with quotes, with
backslashes before spaces, or as a file:// address; all of these are understood.
"""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from omni_runtime.bundle.config import ModelConfig
from omni_runtime.errors import MediaError, UsageError
from omni_runtime.inputs.messages import Audio, Image, MediaPart, Video

MediaKind = Literal["image", "audio", "video"]

SUFFIXES: dict[MediaKind, tuple[str, ...]] = {
    "image": ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "avif"),
    "audio": ("wav", "mp3", "flac", "ogg", "oga", "opus", "m4a", "aac", "wma", "aif", "aiff"),
    "video": ("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ogv", "3gp"),
}
_KINDS: dict[str, MediaKind] = {
    f".{suffix}": kind for kind, suffixes in SUFFIXES.items() for suffix in suffixes
}

_WORD = re.compile(r"""(?<!\S)(?:'[^']*'(?:\\''[^']*')*|"[^"]*")|(?:\\.|\S)+""")
_PUNCTUATION = ".,;:!?)"


def find_files(line: str) -> tuple[str, list[tuple[MediaKind, Path]]]:
    """The line without the media it names, and these, in their order."""
    found: list[tuple[MediaKind, Path]] = []
    rest, end = "", 0
    for match in _WORD.finditer(line):
        for word in _spellings(match.group()):
            path = unquoted(word)
            kind = _KINDS.get(path.suffix.lower())
            if kind is not None and _holds(path.is_file):
                found.append((kind, path))
                rest += line[end : match.start()].rstrip(" ")
                end = match.start() + len(word)
                break
    return (rest + line[end:]).strip(), found


def unquoted(word: str) -> Path:
    """The path that a word means to a shell. On Windows a backslash is no quoting."""
    if len(word) > 1 and word[0] == word[-1] and word[0] in "'\"":
        plain = word[1:-1].replace("'\\''", "'") if word[0] == "'" else word[1:-1]
    elif sys.platform == "win32":
        plain = word
    else:
        plain = re.sub(r"\\(.)", r"\1", word)
    if plain.startswith("file://"):
        plain = unquote(urlsplit(plain).path)
        if re.match(r"/[A-Za-z]:", plain):  # file:///C:/...
            plain = plain[1:]
    try:
        return Path(plain).expanduser()
    except RuntimeError:  # ~ of somebody who has no home
        return Path(plain)


def medium(kind: MediaKind, path: Path, config: ModelConfig, *, sound: bool = True) -> MediaPart:
    """A file as a part of a message.

    Raises MediaError when there is no such file, UsageError when the model takes no such media.
    """
    if _holds(path.is_dir):
        raise MediaError(f"{path} is a folder", fix="name one file in it")
    if not _holds(path.is_file):
        raise MediaError(f"there is no file {path}", fix="check the path")
    if (config.audio if kind == "audio" else config.vision) is None:
        verb = "hear" if kind == "audio" else "see"
        raise UsageError(f"this bundle can't {verb}", fix="omni show prints what a bundle can do")
    if kind == "image":
        return Image(path)
    return Audio(path) if kind == "audio" else Video(path, use_audio=sound)


def _spellings(word: str) -> Iterator[str]:
    """The word, and the word without the punctuation behind it."""
    yield word
    if (bare := word.rstrip(_PUNCTUATION)) not in ("", word):
        yield bare


def _holds(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except (OSError, ValueError):  # too long for a name, or with a NUL in it
        return False
