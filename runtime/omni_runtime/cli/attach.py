"""Find the media files that a line of input names.

No file is read, only its existence is checked. Terminals insert a dropped file with quotes, with
backslashes before spaces, or as a file:// URL. All of these are accepted.
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
from omni_runtime.inputs.source import read_pipe, require_local

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
    """Return the line without the media files that it names, and the files in their order."""
    found: list[tuple[MediaKind, Path]] = []
    rest, end = "", 0
    for match in _WORD.finditer(line):
        for word in _spellings(match.group()):
            path = unquoted(word)
            kind = _KINDS.get(path.suffix.lower())
            if kind is not None and _is_true(path.is_file):
                found.append((kind, path))
                rest += line[end : match.start()].rstrip(" ")
                end = match.start() + len(word)
                break
    return (rest + line[end:]).strip(), found


def unquoted(word: str) -> Path:
    """Return the path that a shell would read. On Windows a backslash is not an escape."""
    if len(word) > 1 and word[0] == word[-1] and word[0] in "'\"":
        plain = word[1:-1].replace("'\\''", "'") if word[0] == "'" else word[1:-1]
    elif sys.platform == "win32":
        plain = word
    else:
        plain = re.sub(r"\\(.)", r"\1", word)
    return located(plain)


def located(plain: str) -> Path:
    """Return the path that a word without quotes names: a path, `~/...` or a file:// URL."""
    if plain.startswith("file://"):
        plain = unquote(urlsplit(plain).path)
        if re.match(r"/[A-Za-z]:", plain):  # file:///C:/...
            plain = plain[1:]
    try:
        return Path(plain).expanduser()
    except RuntimeError:  # ~ of a user without a home folder
        return Path(plain)


def media_part(
    kind: MediaKind, path: Path, config: ModelConfig, *, sound: bool = True
) -> MediaPart:
    """Return a file as a part of a message. `sound`: whether to use the sound track of a video.

    A pipe (`/dev/stdin`, process substitution) is read here, since it can be read only once.
    Raises MediaError if there is no such file, UsageError if the model has no encoder for it.
    """
    require_local(str(path))
    if _is_true(path.is_dir):
        raise MediaError(f"{path} is a folder", fix="name one file in it")
    if not _is_true(path.exists):
        raise MediaError(f"there is no file {path}", fix="check the path")
    if (config.audio if kind == "audio" else config.vision) is None:
        verb = "hear" if kind == "audio" else "see"
        raise UsageError(f"this bundle cannot {verb}", fix="omni show lists what a bundle can do")
    source = path if _is_true(path.is_file) else read_pipe(path)
    if kind == "image":
        return Image(source)
    return Audio(source) if kind == "audio" else Video(source, use_audio=sound)


def _spellings(word: str) -> Iterator[str]:
    """Yield the word, then the word without trailing punctuation."""
    yield word
    if (bare := word.rstrip(_PUNCTUATION)) not in ("", word):
        yield bare


def _is_true(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except (OSError, ValueError):  # the name is too long or contains NUL
        return False
