"""The APK: what is in it, what it may do, and that its dex files run.

The parts are downloaded once (about 30 s). With them, a build takes about two minutes after a
change of the engine and 20 s without one.
"""

import re
import zipfile
from pathlib import Path

import pytest
from tests.android import golden, parity, runtime
from tests.android.engine import Jvm
from tests.android.samples import needs, write_question

from omni_runtime.golden import suite
from toolchain.apk import build_apk, check_apk
from toolchain.dexcheck import read_dex, unknown_references
from toolchain.junit import run_presenter_tests
from toolchain.process import run
from toolchain.project import TELEMETRY
from toolchain.undex import JVM_OPTIONS, jar_of_dex

PERMISSIONS = {
    "RECORD_AUDIO",  # hold-to-talk and calls
    "CAMERA",  # pictures during a call
    "MODIFY_AUDIO_SETTINGS",  # loudspeaker or headset during a call
    "FOREGROUND_SERVICE",  # a call goes on while another app is in front
    "FOREGROUND_SERVICE_MICROPHONE",
    "POST_NOTIFICATIONS",  # the notification of the call
}


@needs("javac", "npm", "aapt2", "apksigner", "enjarify", "zipalign", "cc", jvm_engine=True)
@pytest.mark.timeout(1800)
def test_apk(tmp_path: Path, trained: Path) -> None:
    apk, again = tmp_path / "app.apk", tmp_path / "again.apk"
    build_apk(trained, apk)
    build_apk(trained, again)
    assert check_apk(apk) == check_apk(again), "the same sources and key give the same bytes"

    manifest = run(["aapt", "dump", "xmltree", apk, "AndroidManifest.xml"])
    assert_permissions(apk)
    assert_microphone_service(manifest)
    assert_signatures(apk)
    with zipfile.ZipFile(apk) as archive:
        assert_contents(archive, trained)
        dexes = [archive.read(name) for name in archive.namelist() if name.endswith(".dex")]
    assert_telemetry_is_gone(dexes, manifest)
    assert unknown_references(dexes) == []

    dexed = tmp_path / "dexed.jar"
    jar_of_dex(dexes, dexed)
    assert "OK (" in run_presenter_tests(trained, write_question(tmp_path), dexed)
    assert_parity(trained, dexed, tmp_path / "vectors")


def assert_permissions(apk: Path) -> None:
    listed = re.findall(r"uses-permission: name='([^']+)'", run(["aapt", "dump", "badging", apk]))
    assert set(listed) == {f"android.permission.{name}" for name in PERMISSIONS}


def assert_microphone_service(manifest: str) -> None:
    """API 30 and later end a call in the background whose service lacks the type 0x80."""
    assert re.findall(r"foregroundServiceType\S*=\(type 0x11\)(\S+)", manifest) == ["0x80"]


def assert_signatures(apk: Path) -> None:
    """Phones up to API 27 would read scheme 2, later ones scheme 3."""
    for scheme, versions in ((2, (24, 27)), (3, (29, 34))):
        limits = [
            f"--{end}-sdk-version={api}" for end, api in zip(("min", "max"), versions, strict=True)
        ]
        found = run(["apksigner", "verify", "-v", *limits, apk])
        assert re.search(rf"\(APK Signature Scheme v{scheme}\): true", found)


def assert_contents(archive: zipfile.ZipFile, bundle: Path) -> None:
    names = set(archive.namelist())
    libraries = {name for name in names if name.startswith("lib/")}
    assert libraries == {
        "lib/arm64-v8a/libonnxruntime.so",
        "lib/arm64-v8a/libonnxruntime4j_jni.so",
        "lib/arm64-v8a/libpocket_omni.so",
    }
    for path in filter(Path.is_file, bundle.rglob("*")):
        name = f"assets/bundle/{path.relative_to(bundle).as_posix()}"
        assert archive.read(name) == path.read_bytes()
    assert archive.getinfo("resources.arsc").compress_type == zipfile.ZIP_STORED
    assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def assert_telemetry_is_gone(dexes: list[bytes], manifest: str) -> None:
    for dex in map(read_dex, dexes):
        assert not [name for name in dex.types if name[1:].startswith(TELEMETRY)]
    assert "Telemetry" not in manifest


def assert_parity(bundle: Path, dexed: Path, vectors: Path) -> None:
    """The dex files, turned back into a jar, compute what the Python runtime computes."""
    model = runtime.open_model(bundle)
    suite.save(model, vectors)
    with Jvm(*JVM_OPTIONS, engine=dexed) as jvm:
        engine = jvm.load(bundle)
        assert list(golden.differences(engine, vectors)) == []
        found = parity.conversations(model, engine, 2)
        assert not found.failed and found.worst == 0, found
