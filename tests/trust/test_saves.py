"""Saved conversations survive a kill at any system call, and replace nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Twin
from omni_runtime import atomic_folder
from omni_runtime.atomic_folder import MARKER, OLD, StagedFolder
from omni_runtime.conversation import Conversation
from omni_runtime.errors import OmniError, UsageError

KILLED_SAVES = Path(__file__).with_name("killed_saves.py")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the child is a fork")
def test_a_save_killed_at_any_call_is_old_or_new(default_twin: Twin, tmp_path: Path) -> None:
    (tmp_path / "saves").mkdir()
    done = subprocess.run(
        [sys.executable, KILLED_SAVES, default_twin.bundle, tmp_path / "saves" / "talk"],
        capture_output=True, text=True, check=False, timeout=240,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = done.stdout.split()
    assert len(found) > 20  # so many calls
    assert found == sorted(found) and {"3", "5"} == set(found)  # old first, then new for good


def test_the_only_version_in_the_staging_folder_is_never_deleted(tmp_path: Path) -> None:
    """The state after a kill between the two renames, followed by each operation."""
    target = tmp_path / "save"
    staged = StagedFolder(target)
    for go_on in (staged.open, staged.recover, staged.remove):
        (staged.folder / OLD).mkdir(parents=True)
        (staged.folder / MARKER).touch()
        (staged.folder / OLD / "old").touch()
        go_on()
        assert (target / "old").exists()
        (target / "old").unlink()
        target.rmdir()
        if staged.folder.exists():
            staged.remove()


def test_a_failed_rename_restores_the_old_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "save"
    target.mkdir()
    (target / "old").touch()
    staged = StagedFolder(target)
    staged.open()
    with pytest.raises(FileNotFoundError):
        staged.commit()  # there is no new version
    assert (target / "old").exists()
    staged.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["save"]


def test_files_are_synced_before_the_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = StagedFolder(tmp_path / "save")
    staged.open()
    (staged.new / "inner").mkdir(parents=True)
    (staged.new / "inner" / "file").touch()
    synced: list[str] = []
    real = atomic_folder._sync

    def sync(path: Path) -> None:
        synced.append(path.name if not staged.target.exists() else f"{path.name} afterwards")
        real(path)

    monkeypatch.setattr(atomic_folder, "_sync", sync)
    staged.commit()
    assert {"file", "inner", "new", ".save.partial"} < set(synced)
    assert f"{tmp_path.name} afterwards" in synced


def test_other_folders_are_neither_replaced_nor_deleted(
    default_twin: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Conversation(default_twin.model)
    app = tmp_path / "app"
    app.mkdir()
    (app / "conversation.json").write_text(json.dumps({"fingerprint": "mine", "files": {}}))
    (app / "photo.jpg").touch()
    with pytest.raises(UsageError, match=r"photo.jpg is not part of the saved conversation"):
        talk.save(app)
    (app / "conversation.json").write_text("{}")
    with pytest.raises(UsageError, match="app exists and is not a saved conversation"):
        talk.save(app)
    assert len(list(app.iterdir())) == 2
    (tmp_path / ".talk.partial").mkdir()
    (tmp_path / ".talk.partial" / "mine").touch()
    with pytest.raises(UsageError, match=r"\.talk\.partial exists and was not written by"):
        talk.save(tmp_path / "talk")
    (tmp_path / ".talk.old").mkdir()
    (tmp_path / ".talk.partial" / "mine").rename(tmp_path / ".talk.old" / "mine")
    talk.save(tmp_path / "talk")
    assert (tmp_path / ".talk.old" / "mine").exists()
    monkeypatch.chdir(tmp_path / ".talk.old")
    for name in (".", ".."):
        with pytest.raises(OmniError, match="contains the current folder"):
            talk.save(Path(name))


def test_a_symbolic_link_is_followed_and_kept(default_twin: Twin, tmp_path: Path) -> None:
    talk = Conversation(default_twin.model)
    (tmp_path / "real").mkdir()  # an empty folder may be used
    (tmp_path / "link").symlink_to("real", target_is_directory=True)
    for _ in range(2):
        talk.save(tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real" / "conversation.json").is_file()
    Conversation.load(tmp_path / "link", default_twin.model)
