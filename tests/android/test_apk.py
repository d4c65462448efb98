"""The APK: what is in it, what it may do, and that its dex files run.

The parts are downloaded once (about 30 s). With them, a build takes about two minutes after a
change of the engine and 20 s without one.
"""

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.android.engine import Engine, Jvm
from tests.android.samples import write_question

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
GREEDY = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
SPOKEN = {"voice": None, "preset": None, "sampling": GREEDY, "max_codes": 60, "chunks": "fixed"}
OPTIONS = {"speech": SPOKEN, "sampling": GREEDY, "max_tokens": 24, "seed": 1}


@pytest.mark.timeout(1200)
def test_apk(tmp_path: Path, default_bundle: Path) -> None:
    bundle = default_bundle
    apk, again = tmp_path / "app.apk", tmp_path / "again.apk"
    build_apk(bundle, apk)
    build_apk(bundle, again)
    assert check_apk(apk) == check_apk(again), "the same sources and key give the same bytes"

    manifest = run(["aapt", "dump", "xmltree", apk, "AndroidManifest.xml"])
    assert_permissions(apk)
    assert_microphone_service(manifest)
    assert_signatures(apk)
    with zipfile.ZipFile(apk) as archive:
        assert_contents(archive, bundle)
        dexes = [archive.read(name) for name in archive.namelist() if name.endswith(".dex")]
    assert_telemetry_is_gone(dexes, manifest)
    assert unknown_references(dexes) == []

    dexed = tmp_path / "dexed.jar"
    jar_of_dex(dexes, dexed)
    assert "OK (" in run_presenter_tests(bundle, write_question(tmp_path), dexed)
    assert_same_replies(bundle, dexed)


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


def assert_same_replies(bundle: Path, dexed: Path) -> None:
    """The dex files, turned back into a jar, and the engine's own jar give the same bits."""
    with Jvm() as jvm, Jvm(*JVM_OPTIONS, engine=dexed) as phone:
        expected, found = (replies(one.load(bundle)) for one in (jvm, phone))
    assert expected[0]["text"] == "Seven plus five is twelve."
    for ours, theirs in zip(expected, found, strict=True):
        for key in ("text", "tokens", "codes", "finish_reason", "messages"):
            assert ours[key] == theirs[key]
        for a, b in zip(ours["audio"], theirs["audio"], strict=True):
            np.testing.assert_array_equal(a["samples"], b["samples"])


def replies(engine: Engine) -> list[Any]:
    """Return the replies of a conversation with text, a picture and a sound."""
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (50, 70, 3)).astype(np.uint8)
    samples = random.normal(0, 0.1, 20_000).astype(np.float32)
    questions: list[list[Any]] = [
        [{"text": "What is seven plus five?"}],
        [{"picture": picture}, {"text": "What is this? 你好 🙂"}],
        [{"sound": {"samples": samples, "rate": 22_050}}],
    ]
    talk = engine.talk()
    return [
        talk.ask("send", parts=parts, options=OPTIONS, cancel_after=None) for parts in questions
    ]
