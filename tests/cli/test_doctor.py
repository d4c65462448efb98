"""`omni doctor`: one line per check, a fix for each that is not ok, and the exit code."""

import re
import sys
import tomllib
import types
from importlib import metadata
from pathlib import Path

import msgspec
import pytest

from omni_runtime import machine, processor_features
from omni_runtime.bundle.manifest import Measured, read_manifest, write_manifest
from omni_runtime.cli import doctor
from omni_runtime.engine import kernels


def lines_of(ran) -> dict[str, tuple[str, str]]:
    """Return (status, rest) of each line by the name of the check."""
    found: dict[str, tuple[str, str]] = {}
    for line in ran.out.splitlines():
        status, name, rest = re.fullmatch(r"(ok|warn|fail) +(.{20,}?) (.+)", line).groups()
        assert (status == "ok") == ("  ->  " not in rest), line
        assert not rest.endswith("->"), line
        found[name.strip()] = (status, rest)
    return found


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without sounddevice and prompt-toolkit, whatever is installed."""
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    real = metadata.version

    def version(name: str) -> str:
        if name == "prompt-toolkit":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)


def test_a_healthy_bundle(omni, bundle: Path) -> None:
    ran = omni("doctor", bundle)
    found = lines_of(ran)
    assert ran.code == 0 and ran.err == ""
    assert {name for name, (status, _) in found.items() if status != "ok"} <= {
        "sounddevice", "prompt-toolkit", "disk", "memory needed", "target",
        "native kernels"}  # fmt: skip
    for graph in read_manifest(bundle).graphs:
        assert found[f"graph {graph}"][0] == "ok"
    assert "Ethan" in found["voices"][1] and "fast" in found["presets"][1]
    assert "onnxruntime" in found["packages"][1]
    assert "pocket-omni[talk]" in found["sounddevice"][1]


def test_without_a_bundle(omni) -> None:
    ran = omni("doctor")
    assert ran.code == 0 and not any(name.startswith("graph") for name in lines_of(ran))


def test_no_compiler(omni, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = kernels.KernelLibrary(None, "there is none", "get one")
    monkeypatch.setattr(kernels, "build", lambda progress: missing)
    assert lines_of(omni("doctor"))["native kernels"] == (
        "warn", "there is none: ONNX Runtime's kernels are slower  ->  get one")  # fmt: skip


def test_a_missing_bundle(omni, here: Path) -> None:
    ran = omni("doctor", "nowhere")
    assert ran.code == 1
    assert lines_of(ran)["bundle"] == (
        "fail", "there is no bundle at nowhere  ->  python export/run.py makes one")  # fmt: skip


def test_each_damaged_part_is_reported(omni, copied: Path) -> None:
    graph = next(path for path in copied.rglob("*.onnx") if "dit" in str(path))
    graph.write_bytes(bytes(graph.stat().st_size))
    voice = copied / "voices" / "Ethan.npy"
    voice.write_bytes(bytes(voice.stat().st_size))
    ran = omni("doctor", copied)
    found = lines_of(ran)
    assert ran.code == 1
    failed = {name for name, (status, _) in found.items() if status == "fail"}
    assert failed == {"graph dit", "voices"}
    assert "export it again" in found["graph dit"][1]


def test_memory_against_the_measured_peak(omni, copied: Path, monkeypatch) -> None:
    manifest = read_manifest(copied)
    measured = Measured(
        machine="", onnxruntime="", threads=1, peak_memory=3 * 2**30, load=0.0, first_text=0.0,
        first_audio=None, realtime_factor=None,
    )  # fmt: skip
    write_manifest(msgspec.structs.replace(manifest, measured=measured), copied)
    for available, total, status in ((8, 8, "ok"), (2, 8, "warn"), (2, 2, "fail")):
        monkeypatch.setattr(machine, "available_memory", lambda size=available: size * 2**30)
        monkeypatch.setattr(machine, "total_memory", lambda size=total: size * 2**30)
        ran = omni("doctor", copied)
        assert lines_of(ran)["memory needed"][0] == status
        assert ran.code == (status == "fail")


def test_a_bundle_for_another_target(omni, copied: Path, monkeypatch) -> None:
    manifest = read_manifest(copied)
    write_manifest(msgspec.structs.replace(manifest, target="avx512_vnni"), copied)
    monkeypatch.setattr(processor_features, "detect", lambda: {"avx2"})
    monkeypatch.setattr(processor_features.platform, "machine", lambda: "x86_64")
    ran = omni("doctor", copied)
    assert ran.code == 0 and lines_of(ran)["target"][0] == "warn"
    assert not processor_features.is_missing("avx2") and processor_features.is_missing("arm64")
    monkeypatch.setattr(processor_features, "detect", set)
    assert not processor_features.is_missing("avx512_vnni")  # the system does not tell
    monkeypatch.setattr(processor_features.platform, "machine", lambda: "arm64")
    assert not processor_features.is_missing("arm64") and processor_features.is_missing("avx2")


def test_missing_and_old_packages(omni, monkeypatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "av":
            raise metadata.PackageNotFoundError(name)
        return "1.28.0" if name == "onnxruntime" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.delitem(sys.modules, "omni_runtime.machine")
    monkeypatch.delattr("omni_runtime.machine")
    ran = omni("doctor")
    found = lines_of(ran)
    assert ran.code == 1
    assert found["av"] == ("fail", 'is not installed  ->  pip install "av>=14"')
    fix = 'pip install -U "onnxruntime>=1.29"'
    assert found["onnxruntime"] == ("fail", f"1.28.0 is too old  ->  {fix}")
    assert "psutil" in found["processor"][1]


def test_sound_devices(omni, monkeypatch) -> None:
    def devices(kind: str) -> dict[str, str]:
        if kind == "input":
            raise ValueError("No input device matching ''\nmore")
        return {"name": "Speakers"}

    module = types.SimpleNamespace(query_devices=devices, __version__="0.5")
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    found = lines_of(omni("doctor"))
    assert found["loudspeaker"] == ("ok", "Speakers")
    assert found["microphone"][0] == "warn" and "--audio" in found["microphone"][1]


def test_packages_equal_pyproject() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    project = tomllib.loads(text)["project"]
    everywhere = (line for line in project["dependencies"] if ";" not in line)
    wanted = dict(line.split(">=") for line in everywhere)
    assert wanted == doctor.PACKAGES
    assert project["requires-python"] == ">=" + ".".join(map(str, doctor.LEAST_PYTHON))


def test_licences_of_all_dependencies(omni) -> None:
    ran = omni("doctor", "--licences")
    assert ran.code == 0
    lines = {line.split()[0].lower(): line for line in ran.out.splitlines()[1:]}
    assert lines["pocket-omni"].split()[2] == "Apache-2.0"
    assert {"numpy", "jinja2", "markupsafe", "onnxruntime", "torch"} <= lines.keys()
    assert not [line for line in lines.values() if len(line.split()) < 3]
