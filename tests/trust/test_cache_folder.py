"""Libraries are loaded only from a folder that no other user may write to."""

import os
import stat
import sys
from pathlib import Path

import pytest

from omni_runtime import machine
from omni_runtime.cli import doctor
from omni_runtime.engine import kernels, prepack_cache
from omni_runtime.errors import OmniError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no such modes")
linux = pytest.mark.skipif(sys.platform != "linux", reason="XDG_CACHE_HOME is Linux's")
OTHERS = stat.S_IRWXG | stat.S_IRWXO


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set a temporary home and cache folder, and reset the loaded kernels."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    kernels.forget()
    yield tmp_path / "caches"
    kernels.forget()


def refused(words: str) -> None:
    """The folder is rejected, the doctor reports it, and nothing is loaded from it."""
    with pytest.raises(OmniError, match=words) as error:
        machine.cache_folder()
    assert error.value.fix
    kernels.forget()
    assert kernels.build().library is None
    assert prepack_cache.size() is None
    (told,) = doctor._caches()
    assert told.status == "warn" and told.found == error.value.message and told.fix


def test_the_folder_is_created_with_mode_0700(base: Path) -> None:
    old = os.umask(0)
    try:
        folder = machine.cache_folder()
    finally:
        os.umask(old)
    for made in (folder, folder.parent):
        assert not made.stat().st_mode & OTHERS
    assert [check.found for check in doctor._caches()] == [str(folder)]


@linux
def test_a_relative_cache_home_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("here", "./here", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", name)
        assert machine.cache_folder() == tmp_path / "home" / ".cache" / "pocket-omni"
    assert not (tmp_path / "here").exists() and not (tmp_path / "pocket-omni").exists()


@linux
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_folders_writable_by_others_are_rejected(base: Path, mode: int) -> None:
    base.mkdir()
    base.chmod(mode)
    refused("other users may write to")


@linux
@pytest.mark.parametrize("made", ["caches", "caches/pocket-omni"])
def test_folders_of_other_users_are_rejected(
    base: Path, tmp_path: Path, made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (base / "pocket-omni").mkdir(parents=True, mode=0o700)
    user = os.geteuid()
    if user == 0:
        os.chown(tmp_path / made, 12345, 12345)
    else:  # nobody may give folders away: another user asks
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    refused("belongs to another user")


@linux
def test_a_symbolic_link_is_rejected(base: Path, tmp_path: Path) -> None:
    base.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (base / "pocket-omni").symlink_to(tmp_path / "elsewhere")
    refused("is not a folder")


@linux
def test_own_folder_is_made_private_and_unsafe_files_are_not_loaded(
    base: Path,
) -> None:
    folder = base / "pocket-omni"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    theirs = folder / "library"
    theirs.touch()
    theirs.chmod(0o666)
    assert machine.cache_folder() == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not machine.is_private(theirs)
    theirs.chmod(0o600)
    assert machine.is_private(theirs)
    (folder / "link").symlink_to(theirs)
    assert not machine.is_private(folder / "link")
