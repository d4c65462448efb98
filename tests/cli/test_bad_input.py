"""Errors of prompts and bundles: each prints one line, exits with 1 or 2, and leaves no files."""

import builtins
import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from omni_runtime.bundle.manifest import (
    DIGEST_NAME,
    FILE_NAME,
    FORMAT,
    read_manifest,
    write_manifest,
)

QUESTION = ("Hello", "--no-speech", "--max-tokens", "2")


def test_paths_without_a_bundle(omni, here: Path) -> None:
    (here / "empty").mkdir()
    (here / "file").write_text("x")
    for command in ("show", "verify"):
        omni(command, "nowhere").refused("there is no bundle at nowhere", 1)
    omni("run", "nowhere", *QUESTION).refused("export/run.py", 1)
    omni("run", "empty", *QUESTION).refused("empty has no manifest.json, so it is not a bundle", 1)
    omni("run", "file", *QUESTION).refused("there is no bundle at file", 1)


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def change(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


FILES = [
    "tokenizer.json", "chat_template.jinja", "graphs/thinker/model.onnx",
    "tables/thinker_embedding.npy", "voices/Ethan.npy",
]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_missing_truncated_and_changed_files(omni, copied: Path, name: str) -> None:
    if not (copied / name).exists():  # graphs are laid out as the export likes
        name = next(p.relative_to(copied).as_posix() for p in copied.rglob("*.onnx"))
    change(copied / name)
    omni("verify", copied).refused(f"{name} was changed after the export", 1)
    cut(copied / name)
    for command in (("show",), ("verify",)):
        omni(*command, copied).refused("bytes instead of", 1)
    omni("run", copied, *QUESTION).refused("bytes instead of", 1)
    remove(copied / name)
    omni("run", copied, *QUESTION).refused(f"lacks {name}", 1)


def test_changed_files_that_cannot_be_loaded(omni, copied: Path) -> None:
    """Files of the same size with other content, without `omni verify`."""
    for name in ("tokenizer.json", "tables/thinker_embedding.npy"):
        path = copied / name
        before = path.read_bytes()
        path.write_bytes(bytes(len(before)))
        omni("run", copied, *QUESTION).refused(name, 1)
        path.write_bytes(before)
    for cache, name in (("float32", "model.onnx"), ("int8", "model.int8_cache.onnx")):
        graph = copied / "graphs" / "thinker" / name
        graph.write_bytes(bytes(graph.stat().st_size))
        omni("run", copied, *QUESTION, "--kv-cache", cache).refused("cannot be loaded", 1)


def test_manifests(omni, copied: Path) -> None:
    path = copied / FILE_NAME
    text = path.read_text()
    newer = json.loads(text) | {"format": FORMAT + 1, "news": True}
    for content, words in (
        (json.dumps(newer), f"has format {FORMAT + 1}, but this runtime reads up to {FORMAT}"),
        (text.replace("Ethan", "Edgar"), "was changed after the export"),
        (text[: len(text) // 2], "is damaged"),
        ("[]", "is damaged"),
        ("", "is damaged"),
    ):
        path.write_text(content)
        for command in (("show", copied), ("verify", copied), ("run", copied, *QUESTION)):
            omni(*command).refused(words, 1)
    path.write_bytes(b"\xff\xfe\x00")
    omni("show", copied).refused("is damaged", 1)


def test_every_byte_of_the_manifest_is_verified(omni, copied: Path) -> None:
    """Whitespace too, since the digest is that of the file's bytes."""
    path, digest = copied / FILE_NAME, copied / DIGEST_NAME
    text, line = path.read_bytes(), digest.read_bytes()
    assert line == f"{hashlib.sha256(text).hexdigest()}  {FILE_NAME}\n".encode()
    other = text.replace(b"Ethan", b"ethan", 1)
    for changed in (text + b"\n", text.replace(b": ", b":", 1), other):
        path.write_bytes(changed)
        omni("show", copied).refused("was changed after the export", 1)
    path.write_bytes(text)
    first = b"1" if line.startswith(b"0") else b"0"
    for changed in (b"", b"\xff", line[1:], line.replace(b"manifest", b"other"), first + line[1:]):
        digest.write_bytes(changed)
        omni("verify", copied).refused("was changed after the export", 1)
    digest.write_bytes(line.replace(b"  ", b" *").replace(b"\n", b"\r\n"))  # as on Windows
    assert omni("verify", copied).code == 0
    digest.unlink()
    omni("show", copied).refused("lacks manifest.sha256 (export it again", 1)


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="there is no sha256sum")
def test_sha256sum_checks_a_manifest(copied: Path) -> None:
    def check() -> int:
        words = ["sha256sum", "--check", "--status", DIGEST_NAME]
        return subprocess.run(words, cwd=copied, check=False).returncode

    assert check() == 0
    change(copied / FILE_NAME)
    assert check() == 1


def test_a_bundle_of_an_older_format(omni, copied: Path) -> None:
    """That manifest contains its own digest instead of a separate file."""
    path = copied / FILE_NAME
    older = json.loads(path.read_text()) | {"format": 4, "untried": None, "digest": "0" * 64}
    del older["not_measured"]
    path.write_text(json.dumps(older))
    (copied / DIGEST_NAME).unlink()
    for command in (("show", copied), ("verify", copied), ("run", copied, *QUESTION)):
        words = f"has the older format 4, but this runtime reads {FORMAT} (export it again"
        omni(*command).refused(words, 1)


def test_a_manifest_with_another_contract(omni, copied: Path) -> None:
    import msgspec  # noqa: PLC0415

    manifest = read_manifest(copied)
    graphs = dict(manifest.graphs)
    graphs["thinker"], graphs["talker"] = graphs["talker"], graphs["thinker"]
    write_manifest(msgspec.structs.replace(manifest, graphs=graphs), copied)
    omni("run", copied, *QUESTION).refused("than this runtime expects", 1)


def test_invalid_flags(omni, bundle: Path, here: Path) -> None:
    ask = ("run", bundle, "Hello")
    omni(*ask, "--voice", "Nobody").refused("there is no voice 'Nobody' (choose one of", 2)
    omni(*ask, "--preset", "best").refused("there is no preset 'best' (choose one of", 2)
    omni(*ask, "--temp", "-1").refused("--temp >= 0", 2)
    omni(*ask, "--top-p", "0").refused("--top-p", 2)
    omni(*ask, "--temp", "nan").refused("--temp", 2)
    omni(*ask, "--top-k", "-3").refused("--top-k", 2)
    omni(*ask, "--seed", "-3").refused("--seed", 2)
    for prompt in ("", "  \n"):
        omni("run", bundle, prompt).refused("the prompt is empty", 2)
    omni(*ask, "--max-tokens", "0").refused(
        "argument --max-tokens: '0' is not a positive whole number", 2
    )
    omni(*ask, "--threads", "many").refused("'many' is not a positive whole number", 2)
    omni(*ask, "--fast").refused("unrecognized arguments: --fast (omni --help)", 2)
    omni("dance").refused("invalid choice: 'dance'", 2)
    omni().refused("COMMAND", 2)
    assert not list(here.iterdir())


GARBAGE = os.urandom(3000)


@pytest.mark.parametrize("kind", ["image", "audio", "video"])
@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "there is no file"), (b"", "is empty"), (GARBAGE, "medium"), ("cut", "medium")],
)
def test_media(
    omni, bundle: Path, here: Path, picture: Path, sound: Path, kind: str, content, words: str
) -> None:
    path = here / "medium"
    if content == "cut":
        whole = {"image": picture, "audio": sound, "video": sound}[kind].read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif content is not None:
        path.write_bytes(content)
    before = sorted(here.iterdir())
    omni("run", bundle, "What?", f"--{kind}", path, "-o", "a.wav").refused(words, 1)
    omni("run", bundle, f"--{kind}", here).refused("is a folder", 1)
    omni("run", bundle, f"--{kind}", here, "-o", "-").refused("is a folder", 1)
    assert sorted(here.iterdir()) == before


def test_names_of_files(
    omni, bundle: Path, here: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.setenv("USERPROFILE", str(here))
    for name in (picture.as_uri(), "~/a picture.png"):
        assert omni("run", bundle, *QUESTION, "--image", name).code == 0
    for name in ("https://example.org/a.png", "http://example.org/a.png"):
        words = "example.org/a.png is a URL, and nothing is downloaded (download it"
        omni("run", bundle, *QUESTION, "--image", name).refused(words, 1)


@pytest.mark.skipif(not Path("/dev/stdin").exists(), reason="has no /dev/stdin")
def test_media_from_a_pipe(bundle: Path, here: Path, picture: Path) -> None:
    command = [sys.executable, "-m", "omni_runtime.cli.main", "run", str(bundle), *QUESTION]
    replies = [
        subprocess.run([*command, "--image", name], input=data, capture_output=True, check=True)
        for name, data in ((str(picture), b""), ("/dev/stdin", picture.read_bytes()))
    ]
    assert replies[0].stdout == replies[1].stdout != b""


def test_an_empty_system_prompt(omni, bundle: Path) -> None:
    def prompt_tokens(*system: str) -> int:
        ran = omni("run", bundle, *QUESTION, "--json", *system)
        assert ran.code == 0
        return json.loads(ran.out.splitlines()[-1])["prompt_tokens"]

    assert prompt_tokens("--system", "") < prompt_tokens("--system", "Be brief.") < prompt_tokens()


def test_a_full_context(omni, bundle: Path, here: Path, sound: Path) -> None:
    ran = omni("run", bundle, "Hello " * 30, "--context", "40", "-o", "a.wav")
    ran.refused("the context is full: 0 of 40 tokens are in use", 1)
    assert "start a new conversation" in ran.err
    assert not (here / "a.wav").exists() and not list(here.glob("*.partial"))
    cut = omni("run", bundle, "Hello", "--context", "80", "--no-speech")
    assert cut.code == 0 and "context full at 80 tokens" in cut.err


@pytest.mark.skipif(sys.platform == "win32", reason="folders are protected in another way")
def test_output_that_cannot_be_written(
    omni, bundle: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "folder").mkdir()
    omni("run", bundle, *QUESTION[:1], "-o", "folder").refused("folder is a folder", 1)
    omni("run", bundle, "Hi", "-o", "no/such/a.wav").refused("cannot be written: No such file", 1)
    real = Path.open

    def protected(path: Path, mode: str = "r", **more):
        if set(mode) & {"w", "x"}:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, mode, **more)

    monkeypatch.setattr(Path, "open", protected)
    omni("run", bundle, "Hi", "-o", "a.wav").refused("cannot be written: Permission denied", 1)


class FullDisk(io.BytesIO):
    """A file that accepts some bytes, then fails."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def write(self, data) -> int:
        if self.tell() + len(data) > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


@pytest.mark.parametrize("room", [0, 100])
def test_a_full_disk(
    omni, bundle: Path, here: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    real = Path.open

    def full(path: Path, mode: str = "r", **more):
        if path.suffix == ".partial":
            real(path, mode).close()
            return FullDisk(room)
        return real(path, mode, **more)

    monkeypatch.setattr(Path, "open", full)
    ran = omni("run", bundle, "Hello", "-o", "a.wav", "--max-tokens", "4")
    assert ran.code == 1
    assert ran.err == (
        f"error: {Path('a.wav')} cannot be written: No space left on device "
        "(free some space, or give another -o)\n"
    )
    assert not list(here.iterdir())


def test_standard_output_on_a_full_disk(
    omni, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sys, "stdout", Full())
    omni("run", bundle, *QUESTION).refused("the output cannot be written: No space left", 1)


def test_a_prompt_that_is_not_utf8(omni, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert omni("run", bundle, "caf\udce9", *QUESTION[1:]).code == 0  # as sys.argv gives it
    stdin = io.TextIOWrapper(io.BytesIO(b"caf\xe9"), "utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    assert omni("run", bundle, "-", *QUESTION[1:]).code == 0


def test_the_export_needs_its_packages(omni, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., object] = builtins.__import__

    def without(name: str, *rest, **more):
        if name.startswith("omni_quantize"):
            raise ModuleNotFoundError("no torch", name="torch")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    omni("export").refused('pip install "pocket-omni[export]"', 1)
