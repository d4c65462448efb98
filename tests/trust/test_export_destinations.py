"""The export replaces bundles and nothing else; other files are unchanged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Twin, export_to
from omni_export import cli, exporter
from omni_runtime.bundle.manifest import FILE_NAME
from omni_runtime.bundle.store import Bundle
from omni_runtime.errors import UsageError


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture
def checkpoint(default_twin: Twin) -> Path:
    return default_twin.folder


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if the export starts."""

    def begun(*_: object) -> None:
        raise AssertionError("the work has begun")

    monkeypatch.setattr(cli, "_checkpoint", begun)
    monkeypatch.setattr(exporter, "read_config", begun)


def web_app(folder: Path) -> None:
    folder.mkdir()
    (folder / FILE_NAME).write_text(json.dumps({"name": "app", "icons": []}))
    (folder / "index.html").write_text("years of work")


def bundle_with_notes(folder: Path) -> None:
    listed = {"LICENSE": {"bytes": 0, "sha256": ""}}
    (folder / "voices").mkdir(parents=True)
    (folder / FILE_NAME).write_text(json.dumps({"exporter": "pocket-omni 0", "files": listed}))
    (folder / "LICENSE").touch()
    (folder / "voices" / "notes.txt").write_text("mine")


def damaged(folder: Path) -> None:
    folder.mkdir()
    (folder / FILE_NAME).write_bytes(b"{")


def a_file(folder: Path) -> None:
    folder.write_text("mine")


def taken(folder: Path) -> None:
    (folder.parent / ".out.partial").mkdir()
    (folder.parent / ".out.partial" / "mine.txt").write_text("mine")


@pytest.mark.usefixtures("never")
@pytest.mark.parametrize("make", [web_app, bundle_with_notes, damaged, a_file, taken])
def test_folders_with_unlisted_files_are_rejected_early(
    make: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "out")
    before = tree(tmp_path)
    assert cli.main(["--model", "nobody/nothing", "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert tree(tmp_path) == before


@pytest.mark.usefixtures("never")
@pytest.mark.parametrize("output", [".", "..", "../here"])
def test_the_current_folder_is_rejected_early(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert cli.main(["--model", "nobody/nothing", "--output", output]) == 2
    assert list(tree(tmp_path)) == ["here"]


def test_files_next_to_the_destination_are_kept(checkpoint: Path, tmp_path: Path) -> None:
    for name in (".out.lock", ".out.old", "out.partial"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "out").mkdir()  # an empty folder may be used
    for _ in range(2):
        export_to(checkpoint, tmp_path / "out")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".out.lock", ".out.old", "out", "out.partial"]
    assert (tmp_path / ".out.lock").read_text() == "mine"


def test_files_added_during_the_export_are_kept(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_to(checkpoint, tmp_path / "out")
    copy = exporter.assets.copy

    def meanwhile(*folders: Path) -> str:
        (tmp_path / "out" / "notes.txt").write_text("mine")
        return copy(*folders)

    monkeypatch.setattr(exporter.assets, "copy", meanwhile)
    with pytest.raises(UsageError, match=r"notes.txt is not part of the existing bundle"):
        export_to(checkpoint, tmp_path / "out")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_a_symbolic_link_is_followed_and_kept(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "bundle", target_is_directory=True)
    for _ in range(2):
        export_to(checkpoint, tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
    assert all(unchanged for _, unchanged in Bundle(tmp_path / "disk" / "bundle").verify())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "link"]


def test_a_bundle_is_recovered_after_a_kill_between_renames(
    default_twin: Twin, tmp_path: Path
) -> None:
    staged = exporter.StagedFolder(tmp_path / "out")
    staged.prepare()
    shutil.copytree(default_twin.bundle, staged.folder / "old")
    Bundle(tmp_path / "out")
    assert (tmp_path / "out" / FILE_NAME).is_file()
