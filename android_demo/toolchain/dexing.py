"""Dex jars with D8. The dex of a jar is cached by its hash: the standard library takes a while."""

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path

from omni_runtime.errors import OmniError
from toolchain.android_jar import android_jar
from toolchain.dexcheck import unknown_references
from toolchain.parts import CACHE, KEPT, cached, part
from toolchain.process import java
from toolchain.versions import version


def dex(jars: Sequence[Path], *, checked: bool = True) -> list[bytes]:
    """Return the dex files of jars, in the order of their names in an APK.

    Raises OmniError for a reference to something that a phone with the minimum API does not have.
    """
    parts = [_dex_of_jar(jar) for jar in jars]
    merged = _d8("merged", parts, intermediate=False)
    with zipfile.ZipFile(merged) as archive:
        count = len(archive.namelist())
        names = ["classes.dex", *(f"classes{number}.dex" for number in range(2, count + 1))]
        dexes = [archive.read(name) for name in names]
    if checked and (unknown := unknown_references(dexes)):
        shown = "\n".join(unknown[:40])
        raise OmniError(f"the dex refers to what API {version('min-sdk')} does not have:\n{shown}")
    return dexes


def _dex_of_jar(jar: Path) -> Path:
    return _d8(jar.stem, [jar], intermediate=True)


def _d8(name: str, inputs: Sequence[Path], *, intermediate: bool) -> Path:
    """Run D8, unless the cache has its output, and return a zip of dex files."""
    options = ["--release", "--min-api", version("min-sdk")]
    options += ["--intermediate"] if intermediate else []
    library, _ = android_jar()
    digest = hashlib.sha256(repr([part("dexer").name, library.parent.name, options]).encode())
    for path in inputs:
        digest.update(hashlib.sha256(path.read_bytes()).digest())

    def build(new: Path) -> None:
        output = ["--lib", library, "--output", new / "dex.zip"]
        java("com.android.tools.r8.D8", [part("dexer") / "d8.jar"], *options, *output, *inputs)

    folder = CACHE / "dex" / name / digest.hexdigest()[:20]
    return cached(folder, build, keep=KEPT) / "dex.zip"
