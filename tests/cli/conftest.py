"""Fixtures: the command line called in this process, and checks of its errors."""

import os
import shutil
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from conftest import Twin
from omni_runtime.bundle.manifest import read_manifest, write_manifest
from omni_runtime.cli.main import main
from omni_runtime.engine import kernels


@dataclass
class Ran:
    """The result of a command: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    def refused(self, words: str, code: int | None = None) -> None:
        """Assert that the only output is one error line with `words`, and no traceback."""
        assert self.code in ((1, 2) if code is None else (code,)), self
        assert self.err.startswith("error: "), self.err
        assert self.err.count("\n") == 1 and self.err.endswith("\n"), self.err
        assert words in self.err, self.err
        assert "Traceback" not in self.out and not self.out, self.out


Omni = Callable[..., Ran]


@pytest.fixture(scope="session", autouse=True)
def kernels_are_built() -> None:
    """Compile the kernels first, so that no command under test prints that it does."""
    kernels.build()


@pytest.fixture(scope="session")
def bundle(make_twin: Callable[[str], Twin], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that speaks for at most a second; random weights rarely end by themselves."""
    folder = tmp_path_factory.mktemp("bundles") / "brief"
    shutil.copytree(make_twin("default").bundle, folder)
    manifest = read_manifest(folder)
    speech = manifest.model.speech
    assert speech is not None
    talker = msgspec.structs.replace(speech.talker, max_codes=50)
    model = msgspec.structs.replace(
        manifest.model, speech=msgspec.structs.replace(speech, talker=talker)
    )
    write_manifest(msgspec.structs.replace(manifest, model=model), folder)
    return folder


@pytest.fixture
def copied(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle that a test may damage."""
    return shutil.copytree(bundle, tmp_path / "copied")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def omni(here: Path, capsys: pytest.CaptureFixture[str]) -> Omni:
    def run(*words: str | os.PathLike[str]) -> Ran:
        capsys.readouterr()
        code = main([os.fspath(word) for word in words])
        return Ran(code, *capsys.readouterr())

    return run


def write_wav(path: Path, seconds: float = 0.5) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        tone = 8000 * np.sin(np.arange(int(16000 * seconds)) / 9)
        file.writeframes(tone.astype("<i2").tobytes())
    return path


@pytest.fixture
def picture(here: Path) -> Path:
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(here / "a picture.png")
    return here / "a picture.png"


@pytest.fixture
def sound(here: Path) -> Path:
    return write_wav(here / "sound.wav")
