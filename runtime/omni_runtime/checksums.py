"""SHA-256 digests of files, and JSON files with a digest file: NAME.json and NAME.sha256.

The digest is that of the file's bytes, in the format of `sha256sum`, so `sha256sum -c` checks it.
"""

import hashlib
import re
from pathlib import Path

LINE = re.compile(rb"([0-9a-f]{64}) [ *]([^\r\n]+)\r?\n?")


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_file(name: str) -> str:
    """Return the name of the digest file of NAME.json."""
    return f"{name.removesuffix('.json')}.sha256"


def write_with_digest(path: Path, data: bytes) -> None:
    """Write a file and its digest file. Raises OSError."""
    path.write_bytes(data)
    line = f"{hashlib.sha256(data).hexdigest()}  {path.name}\n"
    path.with_name(digest_file(path.name)).write_bytes(line.encode())


def matches_digest(path: Path, data: bytes) -> bool:
    """Return whether `data`, read from `path`, matches the digest file of `path`.

    Raises OSError when the digest file cannot be read.
    """
    line = LINE.fullmatch(path.with_name(digest_file(path.name)).read_bytes())
    if line is None or line[2] != path.name.encode():
        return False
    return line[1] == hashlib.sha256(data).hexdigest().encode()
