"""The toolchain of the Android demo: parts, android.jar, the check of dex files."""

import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
from tests.android.samples import needs

from omni_runtime.errors import OmniError
from toolchain import parts, versions
from toolchain.android_jar import android_jar
from toolchain.api_text import Type, read_api
from toolchain.dexcheck import unknown_references
from toolchain.dexing import dex
from toolchain.kotlin import compile_kotlin, standard_library
from toolchain.process import find, run
from toolchain.resources import build_resources, set_microphone

CONTENT = {"package/a.txt": b"a", "package/inner.zip": b""}


def archive() -> bytes:
    """Return a tar archive with a file and a zip archive that holds another."""
    inner, outer = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(inner, "w") as file:
        file.writestr("deep/b.txt", b"b")
    with tarfile.open(fileobj=outer, mode="w:gz") as file:
        for name, data in (("package/a.txt", b"a"), ("package/inner.zip", inner.getvalue())):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    return outer.getvalue()


@pytest.fixture
def offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Let the registry give these bytes for the part `test`, which is pinned to `archive()`."""
    monkeypatch.setattr(parts, "CACHE", tmp_path / "cache")
    pinned = archive()

    def set_archive(data: bytes) -> None:
        part = parts.Part(
            lambda wanted, folder: (folder / "archive").write_bytes(data) and None,
            "test",
            "1",
            hashlib.sha256(pinned).hexdigest(),
            {"package/a.txt": "a.txt", "package/inner.zip!deep/b.txt": "x/b.txt"},
        )
        monkeypatch.setattr(parts, "PARTS", {"test": part})
        monkeypatch.setattr(parts, "archive", pinned, raising=False)

    set_archive(pinned)
    return set_archive


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*")]


def test_a_part_is_unpacked_once(offer: Callable[[bytes], None]) -> None:
    folder = parts.part("test")
    assert (folder / "a.txt").read_bytes() == b"a"
    assert (folder / "x/b.txt").read_bytes() == b"b"
    offer(b"gone")
    assert parts.part("test") == folder
    assert leftovers(parts.CACHE) == []


def test_another_archive_is_refused(offer: Callable[[bytes], None]) -> None:
    offer(archive() + b"more")
    with pytest.raises(OmniError, match=r"test 1 does not have the pinned SHA-256 .*pin a version"):
        parts.part("test")
    assert leftovers(parts.CACHE) == []
    offer(archive())
    assert parts.part("test").is_dir()


def test_a_part_without_a_wanted_file_is_refused(
    offer: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = replace(parts.PARTS["test"], members={"package/missing": "m"})
    monkeypatch.setattr(parts, "PARTS", {"test": wanted})
    with pytest.raises(OmniError, match="does not contain package/missing"):
        parts.part("test")


def test_a_cache_that_cannot_be_written_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(parts, "CACHE", tmp_path / "file")
    with pytest.raises(OmniError, match=r"cannot be written.*set XDG_CACHE_HOME"):
        parts.part("kotlin")


def test_processes_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "CACHE", tmp_path)
    made: list[Path] = []

    def make(new: Path) -> None:
        made.append(new)
        (new / "x").touch()

    folders = [tmp_path / "things" / "one"] * 4
    threads = [Thread(target=parts.cached, args=(folder, make)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_old_entries_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "CACHE", tmp_path)
    for number in range(4):
        folder = parts.cached(tmp_path / "jars" / str(number), lambda new: None, keep=2)
        os.utime(folder, (number, number))
    assert sorted(path.name for path in (tmp_path / "jars").iterdir()) == ["2", "3"]


def test_programs_that_fail_or_are_missing_are_one_error() -> None:
    with pytest.raises(OmniError, match=r"not installed \(apt-get install some-package\)"):
        find("no-such-program", "some-package")
    with pytest.raises(OmniError, match="sh failed:\nthe reason"):
        run(["sh", "-c", "echo the reason >&2; exit 3"])


def test_the_api_file_is_understood() -> None:
    text = """
package a.b {
  @Deprecated public abstract static class C.D<T extends java.lang.Object & a.b.I<? super T>> extends a.b.C implements a.b.I<T> java.lang.Runnable {
    ctor protected D(@IntRange(from=0, to=(1)) int);
    method @NonNull public static final <K> java.util.Map.Entry<K,T[]>[] f(@Nullable K, T...) throws a.b.E;
    field public static final String S = "; // \\"no\\"";
    field public static final char X = 39; // 0x0027 '\\''
  }
}
"""  # noqa: E501
    (found,) = read_api(text)
    assert (found.package, found.name, found.kind) == ("a.b", "C.D", "class")
    assert [bound.name for bound in found.variables[0].bounds] == ["java.lang.Object", "a.b.I"]
    assert [kind.name for kind in found.implements] == ["a.b.I", "java.lang.Runnable"]
    constructor, method, text_field, number_field = found.members
    assert constructor.parameters == ((Type("int"), frozenset({"IntRange"})),)
    assert method.type.arguments[1] == Type("T", dimensions=1)
    assert method.varargs and method.parameters[0][1] == {"Nullable"}
    assert [kind.name for kind in method.throws] == ["a.b.E"]
    assert text_field.value == '"; // \\"no\\""'
    assert number_field.value == "39"
    with pytest.raises(ValueError, match="method public broken"):
        read_api("package a {\n  public class B {\n    method public broken\n")


@needs("javac", "npm", "apt-get")
def test_android_jar_has_the_api(tmp_path: Path) -> None:
    """javap, the JDK's own reader, shows what the API file says."""
    jar, _ = android_jar()
    expected = {
        "android.util.ArrayMap": "public V put(K, V);",
        "android.R$id": "public static final int text1 = 16908308;",
        "android.view.View": "public final <T extends android.view.View> T findViewById(int);",
        "java.lang.Math": "public static final double PI = 3.141592653589793d;",
        "android.view.View$OnClickListener": "public abstract void onClick(android.view.View);",
        "java.lang.Enum": "protected final java.lang.Object clone() "
        "throws java.lang.CloneNotSupportedException;",
    }
    for name, line in expected.items():
        assert line in run(["javap", "-constants", "-cp", jar, name]), name


@needs("javac", "npm", "apt-get")
def test_what_a_phone_lacks_is_found(tmp_path: Path) -> None:
    """`readAllBytes` came with API 33, `ProcessHandle` never: a desktop compiler takes both."""
    (tmp_path / "Missing.kt").write_text(
        "fun read(input: java.io.ByteArrayInputStream) = input.readAllBytes()\n"
        "fun number() = ProcessHandle.current().pid()\n"
        "fun fine(input: java.io.ByteArrayInputStream) = input.markSupported()\n"
    )
    jars = [standard_library(), compile_kotlin("missing", [tmp_path], api=())]
    unknown = unknown_references(dex(jars, checked=False))
    assert unknown == [
        "Ljava/io/ByteArrayInputStream; readAllBytes()[B",
        "Ljava/lang/ProcessHandle;",
        "Ljava/lang/ProcessHandle; current()Ljava/lang/ProcessHandle;",
        "Ljava/lang/ProcessHandle; pid()J",
    ]
    with pytest.raises(OmniError, match=r"what API 29 does not have:\n.*readAllBytes"):
        dex(jars)


@needs("javac", "npm", "apt-get")
def test_a_wrong_program_is_the_compiler_s_error(tmp_path: Path) -> None:
    (tmp_path / "Wrong.kt").write_text('fun f(): Int = "text"')
    with pytest.raises(OmniError, match=r"Wrong.kt:1:16: error: return type mismatch"):
        compile_kotlin("wrong", [tmp_path])


@needs("javac", "npm", "aapt2")
def test_the_service_type_is_set_once(tmp_path: Path) -> None:
    resources, _ = build_resources(tmp_path)
    with zipfile.ZipFile(resources) as apk:
        manifest = set_microphone(apk.read("AndroidManifest.xml"))
    with pytest.raises(OmniError, match="has 0 foreground services"):
        set_microphone(manifest)


def test_versions_are_in_one_place() -> None:
    """Gradle's files name entries of the catalog, and no version."""
    root = versions.CATALOG.parent.parent
    catalog = versions.CATALOG.read_text("utf-8")
    scripts = [*root.glob("*.kts"), *root.glob("*/*.kts")]
    assert len(scripts) == 5
    for script in scripts:
        text = script.read_text("utf-8")
        assert not [word for word in text.split() if word.strip('"').replace(".", "").isdigit()]
        for line in text.splitlines():
            for name in line.split("libs.")[1:]:
                key = name.split(")")[0].split(".get")[0]
                for section in ("versions.", "plugins."):
                    key = key.removeprefix(section)
                assert key.replace(".", "-") in catalog, line
