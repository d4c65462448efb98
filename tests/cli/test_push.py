"""`omni push` with a stand-in for adb that keeps a phone in a folder; `omni show --phone`."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from conftest import Twin
from omni_runtime.cli.main import main

ADB = """#!{python}
import os, pathlib, shutil, subprocess, sys
root = pathlib.Path(os.environ["PHONE"])
words = sys.argv[1:]
def here(text): return text.replace("/sdcard", str(root / "sdcard"))
if words == ["devices"]:
    print("List of devices attached"); print(os.environ.get("DEVICES", "one\\tdevice"))
elif words[0] == "push":
    shutil.copytree(words[1], here(words[2]), dirs_exist_ok=True)
    if os.environ.get("DAMAGE"): (pathlib.Path(here(words[2])) / "manifest.json").write_text("x")
elif words[1].startswith("df"):
    print("Filesystem 1K-blocks Used Available\\nx 1 1 " + os.environ.get("FREE", "9999999"))
else:
    sys.exit(subprocess.run(["sh", "-c", here(words[1])]).returncode)
"""
BUNDLES = "sdcard/Android/data/org.pocketomni.app/files/bundles"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script")


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script = tmp_path / "bin" / "adb"
    script.parent.mkdir()
    script.write_text(ADB.format(python=sys.executable))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PHONE", str(tmp_path / "phone"))
    (tmp_path / "phone" / "sdcard").mkdir(parents=True)
    return tmp_path / "phone"


def test_every_file_arrives(default_twin: Twin, phone: Path, capsys) -> None:
    assert main(["push", str(default_twin.bundle)]) == 0
    there = phone / BUNDLES / default_twin.bundle.name
    for path in default_twin.bundle.rglob("*"):
        if path.is_file():
            copy = there / path.relative_to(default_twin.bundle)
            assert copy.read_bytes() == path.read_bytes()
    assert "all checksums match" in capsys.readouterr().out
    assert main(["verify", str(there)]) == 0
    assert main(["push", str(default_twin.bundle)]) == 2, "never over another one"


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("DAMAGE", "1", "did not arrive whole"),
        ("FREE", "10", "free some space"),
        ("DEVICES", "", "0 phones"),
        ("DEVICES", "a\tunauthorized", "allow debugging"),
        ("DEVICES", "a\tdevice\nb\tdevice", "--serial a or b"),
    ],
)
def test_what_can_go_wrong(
    default_twin: Twin, phone: Path, monkeypatch, capsys, variable: str, value: str, words: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert main(["push", str(default_twin.bundle)]) == 1
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error
    assert not (phone / BUNDLES / default_twin.bundle.name).exists()


def test_without_adb(default_twin: Twin, monkeypatch, capsys) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert main(["push", str(default_twin.bundle)]) == 1
    assert "there is no adb" in capsys.readouterr().err


def test_what_phones_hold(default_twin: Twin, capsys) -> None:
    assert main(["show", str(default_twin.bundle), "--phone"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["6", "8", "12"]
    assert "speech, pictures and sound" in lines[1]
