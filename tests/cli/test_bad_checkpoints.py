"""Export errors: each prints one line, exits with 1 or 2, and leaves no bundle."""

import json
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import Twin
from export.saved_forms import edit_json
from omni_export import exporter
from omni_runtime.bundle.store import Bundle

RUN = Path(__file__).parents[2] / "export" / "run.py"
EMBEDDING = "thinker.model.embed_tokens.weight"


@pytest.fixture(scope="session")
def original(make_twin: Callable[[str], Twin]) -> Path:
    return make_twin("default").folder


@pytest.fixture
def checkpoint(original: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint that a test may damage."""
    return shutil.copytree(original, tmp_path / "checkpoint")


@pytest.fixture
def refused(omni, here: Path, checkpoint: Path) -> Callable[..., None]:
    """Assert that the export fails and leaves no files."""

    def check(words: str, code: int | None = None, model: Path | str = checkpoint) -> None:
        before = sorted(here.iterdir())
        ran = omni("export", "--model", str(model), "--quant", "fp32", "--output", "new/bundle")
        lines = ran.err.splitlines()
        ran.err = "".join(
            line + "\n"
            for line in lines
            if not re.match(r"\[\d+/\d+\] |reading the checkpoint$", line)
        )  # progress
        ran.refused(words, code)
        if (here / "new").exists():
            assert not list((here / "new").iterdir())
            (here / "new").rmdir()
        assert sorted(here.iterdir()) == before

    return check


def shard_of(checkpoint: Path, tensor: str) -> Path:
    index = json.loads((checkpoint / "model.safetensors.index.json").read_text())
    return checkpoint / index["weight_map"][tensor]


def edit_tensors(path: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def test_no_checkpoint(refused, here: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    refused("empty has no config.json, so it is not a Hugging Face", 1, tmp_path / "empty")
    refused("is neither a checkpoint folder nor a hub id", 2, tmp_path / "file")
    refused("is neither a checkpoint folder nor a hub id", 2, "nowhere")
    for file, words in (
        ("adapter_config.json", "is an adapter of PEFT, not a model (give --model the checkpoint"),
        ("manifest.json", "is a bundle already"),
        ("model-q4.gguf", "has GGUF files of llama.cpp"),
        ("global_step12", "is a training state of DeepSpeed"),
    ):
        (tmp_path / "empty" / file).touch()
        refused(words, 2, tmp_path / "empty")
        (tmp_path / "empty" / file).unlink()


def test_adapters_and_speech(omni, refused, here: Path, checkpoint: Path) -> None:
    omni("export", "--mute", "--speech-from", "x").refused("not allowed with argument", 2)
    ran = omni("export", "--model", checkpoint, "--speech-from", "nowhere")
    ran.refused("'nowhere' is neither a checkpoint folder nor a hub id", 2)
    ran = omni("export", "--model", checkpoint, "--check")
    assert ran.code == 0 and ran.out.startswith("kind      Qwen2.5-Omni, float32\n"), ran
    assert not list(here.iterdir())
    (checkpoint / "spk_dict.pt").unlink()
    omni("export", "--model", checkpoint, "--check").refused("--speech-from", 1)
    ran = omni("export", "--model", checkpoint, "--check", "--adapter", here)
    ran.refused("has no adapter_config.json, so it is not an adapter", 2)


def test_configurations(refused, checkpoint: Path) -> None:
    path = checkpoint / "config.json"
    good = path.read_text()
    edits: list[tuple[Callable[[dict[str, Any]], object], str, int]] = [
        (lambda c: c.update(model_type="llama"), "model of type 'llama'; only 'qwen2_5_omni'", 2),
        (lambda c: c.pop("model_type"), "model of type None", 2),
        (lambda c: c.pop("thinker_config"), "has no section 'thinker_config'", 1),
        (lambda c: c["thinker_config"]["text_config"].pop("rms_norm_eps"), "rms_norm_eps", 1),
        (lambda c: c["thinker_config"].update(audio_token_index="x"), "audio_token_index", 1),
        (lambda c: c["talker_config"].update(hidden_act="relu"), "hidden_act is 'relu'", 2),
    ]
    for edit, words, code in edits:
        edit_json(path, edit)
        refused(words, code)
        path.write_text(good)
    for broken in (good[:500], "[]", ""):
        path.write_text(broken)
        refused("config.json", 1)


def test_missing_json_files(refused, checkpoint: Path) -> None:
    edit_json(checkpoint / "preprocessor_config.json", lambda c: c.pop("n_fft"))
    refused("n_fft", 1)
    edit_json(checkpoint / "preprocessor_config.json", lambda c: c.update(padding_side="middle"))
    edit_json(checkpoint / "preprocessor_config.json", lambda c: c.update(n_fft=400))
    refused("padding_side", 1)


def test_shards(refused, checkpoint: Path) -> None:
    shard = shard_of(checkpoint, EMBEDDING)
    data = shard.read_bytes()
    for part in (0, 5, 100, len(data) // 2):
        shard.write_bytes(data[:part])
        refused(f"{shard.name} is damaged or truncated", 1)
    shard.unlink()
    refused(f"the checkpoint lacks {shard.name}", 1)
    index = checkpoint / "model.safetensors.index.json"
    edit_json(index, lambda c: c["weight_map"].update({EMBEDDING: "../elsewhere.safetensors"}))
    refused("points outside its folder", 1)
    index.unlink()
    refused("has none of model.safetensors, pytorch_model.bin", 1)


def test_tensors(refused, checkpoint: Path) -> None:
    shard = shard_of(checkpoint, EMBEDDING)
    data, index = shard.read_bytes(), checkpoint / "model.safetensors.index.json"
    edit_tensors(
        shard, lambda tensors: tensors.update({EMBEDDING: tensors[EMBEDDING][:-1].clone()})
    )
    refused(f"tensor {EMBEDDING} has shape", 1)
    shard.write_bytes(data)
    edit_tensors(shard, lambda tensors: tensors.pop(EMBEDDING))
    refused(f"lacks {EMBEDDING}, which its index lists", 1)
    listed = index.read_text()
    edit_json(index, lambda c: c["weight_map"].pop(EMBEDDING))
    refused(f"the checkpoint lacks the tensor {EMBEDDING}", 1)
    shard.write_bytes(data)
    index.write_text(listed)
    edit_tensors(shard, lambda tensors: tensors.update(adapter=torch.zeros(2)))
    edit_json(index, lambda c: c["weight_map"].update(adapter=shard.name))
    refused("has tensors that no graph uses: adapter", 1)


class Evil:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.touch, (Path("evil"),)  # type: ignore[return-value]


def test_voices(refused, checkpoint: Path, here: Path) -> None:
    path = checkpoint / "spk_dict.pt"
    good = torch.load(path, weights_only=True)
    path.unlink()
    refused("has no spk_dict.pt, which has the voices", 1)
    for harmful in (lambda: torch.save({"x": Evil()}, path),
                    lambda: path.write_bytes(pickle.dumps(Evil()))):  # fmt: skip
        harmful()
        refused("cannot be read safely", 1)
        assert not (here / "evil").exists()
    path.write_bytes(b"")
    refused("spk_dict.pt", 1)
    entry = good["Ethan"]
    spoilt: list[tuple[object, str]] = [
        ({}, "contains no voice"),
        ([1, 2], "spk_dict.pt"),
        ({"Ethan": 3}, "Ethan"),
        ({"Ethan": {"cond": entry["cond"]}}, "voice 'Ethan' lacks"),
        ({"../../evil": entry}, "../../evil"),
        ({"a/b": entry}, "a/b"),
        ({"": entry}, "voice"),
        ({7: entry}, "7"),
        ({"Ethan": entry | {"cond": torch.zeros(3)}}, "Ethan"),
        ({"Ethan": entry | {"ref_mel": torch.zeros(1, 9, 7)}}, "Ethan"),
        ({"Ethan": entry | {"ref_mel": "mel"}}, "Ethan"),
        ({"Ethan": entry | {"bos_token": 10**9}}, "Ethan"),
    ]
    for content, words in spoilt:
        torch.save(content, path)
        refused(words, 1)


def test_invalid_flags(omni, here: Path, original: Path) -> None:
    omni("export", "--quant", "int3").refused("there is no recipe 'int3' (choose one of", 2)
    omni("export", "--target", "z80").refused("there is no target 'z80' (choose one of", 2)
    omni("export", "--recipe", "none.json").refused("the recipe none.json cannot be read", 1)
    (here / "own.json").write_text("{}")
    omni("export", "--recipe", "own.json").refused("recipe own.json", 1)
    omni("export", "--fast").refused("unrecognized arguments: --fast", 2)


def test_destinations(omni, here: Path, original: Path) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "thesis.txt").write_text("years of work")
    (here / "file").write_text("x")
    for name in ("mine", "file"):
        ran = omni("export", "--model", original, "--output", name)
        ran.refused(f"{name} exists and is not a bundle (move it away, or", 2)
    ran = omni("export", "--model", original, "--output", "file/bundle")
    ran.refused("file/bundle cannot be written", 1)
    assert sorted(p.name for p in here.rglob("*")) == ["file", "mine", "thesis.txt"]


def test_a_full_disk(omni, here: Path, original: Path, monkeypatch) -> None:
    import errno  # noqa: PLC0415

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(exporter.plan.tables, "write", full)
    ran = omni("export", "--model", original, "--quant", "fp32", "--output", "bundle")
    assert ran.code == 1 and not list(here.iterdir())
    assert ran.err.splitlines()[-1].startswith(
        "error: bundle cannot be written: No space left on device, "
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
def test_a_killed_export_leaves_no_bundle(here: Path, original: Path) -> None:
    command = [sys.executable, str(RUN), "--quant", "fp32", "--model", str(original)]
    for number in (signal.SIGTERM, signal.SIGKILL):
        with subprocess.Popen(
            [*command, "--output", "bundle"], stderr=subprocess.PIPE, text=True
        ) as export:
            until = monotonic() + 60
            while not (here / ".bundle.partial").exists():
                assert monotonic() < until and export.poll() is None
                sleep(0.02)
            sleep(random.uniform(0, 0.8))
            export.send_signal(number)
            _, err = export.communicate(timeout=60)
        assert not (here / "bundle").exists()
        if number == signal.SIGTERM:
            assert export.returncode == 143 and "Traceback" not in err
            if err.endswith("stopped; no files are left\n"):
                assert not list(here.iterdir())
            else:
                assert re.search(r"\nstopped; \d+ finished artifacts are kept .*\n$", err), err
    assert {path.name for path in here.iterdir()} == {".bundle.partial"}
    done = subprocess.run(
        [*command, "--output", "bundle"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in here.iterdir()] == ["bundle"]
    assert all(unchanged for _, unchanged in Bundle(here / "bundle").verify())
    assert Bundle(here / "bundle").manifest.measured is not None
