"""Every way people save a checkpoint gives the same tensors and configuration as the published."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from conftest import Twin, export_to
from export.saved_forms import (
    WRITTEN_BY_5,
    by_transformers_5,
    edit_json,
    pickled,
    renamed,
    rewritten,
    tensors_of,
    thinker_alone,
)
from omni_export.checkpoint import SPEECH, Checkpoint
from omni_export.hub import LocalCheckpoint
from omni_export.model_config import read_preprocessor
from omni_export.source import SourceConfig, read_config
from omni_runtime.bundle.store import Bundle
from omni_runtime.conversation import Conversation
from omni_runtime.errors import OmniError, UsageError
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions


def all_tensors(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    return {name: checkpoint.claim(name).read() for name in checkpoint.shapes("")}


def assert_same(found: Checkpoint, wanted: dict[str, torch.Tensor]) -> None:
    tensors = all_tensors(found)
    assert set(tensors) == set(wanted)
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(tensors[name], tensor.float().numpy(), err_msg=name)


def without_raw(folder: Path) -> SourceConfig:
    source = read_config(folder)
    assert source.speech is not None
    return msgspec.structs.replace(
        source, speech=msgspec.structs.replace(source.speech, dit_raw={})
    )


def test_padding_side_of_sound(default_twin: Twin, tmp_path: Path) -> None:
    folder = shutil.copytree(default_twin.folder, tmp_path / "left")
    edit_json(folder / "preprocessor_config.json", lambda c: c.update(padding_side="left"))
    for bundle, side in (
        (default_twin.bundle, "right"),
        (export_to(folder, tmp_path / "bundle"), "left"),
    ):
        audio = Bundle(bundle).manifest.model.audio
        assert audio is not None and audio.padding_side == side


def test_transformers_5(default_twin: Twin, tmp_path: Path) -> None:
    """No buffer, one processor_config.json, another form of the rotary settings: equal graphs."""
    folder = by_transformers_5(default_twin.folder, tmp_path / "five")
    assert without_raw(folder) == without_raw(default_twin.folder)
    assert read_preprocessor(folder) == read_preprocessor(default_twin.folder)
    files = Bundle(export_to(folder, tmp_path / "bundle")).manifest.files
    wanted = default_twin.model.bundle.manifest.files
    assert {k: v for k, v in files.items() if k != "chat_template.jinja"} == {
        k: v for k, v in wanted.items() if k != "chat_template.jinja"
    }


def test_the_thinker_of_transformers_5(default_twin: Twin, tmp_path: Path) -> None:
    shutil.copyfile(WRITTEN_BY_5 / "thinker_config.json", tmp_path / "config.json")
    wanted = read_config(default_twin.folder)
    assert read_config(tmp_path) == type(wanted)(
        wanted.audio, wanted.vision, wanted.text, wanted.thinker, wanted.eos, speech=None
    )


def test_a_thinker_alone(default_twin: Twin, tmp_path: Path) -> None:
    """It gives a mute bundle, or one that speaks with the Talker and voices of another."""
    folder = thinker_alone(default_twin.folder, tmp_path / "alone", default_twin.reference)
    own = {k: v for k, v in tensors_of(default_twin.folder).items() if not k.startswith(SPEECH)}
    assert_same(Checkpoint(folder), own)
    mute = Bundle(export_to(folder, tmp_path / "mute")).manifest
    assert mute.capabilities == ("text", "audio", "image", "video")
    local = LocalCheckpoint(folder, "alone", "test", speech_from=default_twin.folder)
    whole = Bundle(export_to(local, tmp_path / "whole")).manifest
    assert whole.files == default_twin.model.bundle.manifest.files
    assert whole.origin.model == f"alone + speech of {default_twin.folder.name}"


def test_speech_of_another_size(
    default_twin: Twin, make_twin: Callable[[str], Twin], tmp_path: Path
) -> None:
    other = make_twin("wide").folder
    with pytest.raises(UsageError, match="belong to models of different size"):
        read_config(default_twin.folder, speech_from=other)
    folder = thinker_alone(default_twin.folder, tmp_path / "alone", default_twin.reference)
    with pytest.raises(UsageError, match=r"the Thinker of Qwen2\.5-Omni, without speech"):
        read_config(default_twin.folder, speech_from=folder)


def test_the_weights_of_a_thinker_with_the_complete_configuration(
    default_twin: Twin, tmp_path: Path
) -> None:
    folder = thinker_alone(default_twin.folder, tmp_path / "alone", default_twin.reference)
    shutil.copyfile(default_twin.folder / "config.json", folder / "config.json")
    with pytest.raises(OmniError, match=r"of the Thinker alone.*--speech-from.*--mute"):
        export_to(folder, tmp_path / "bundle")
    local = LocalCheckpoint(folder, "alone", "test", mute=True)
    manifest = Bundle(export_to(local, tmp_path / "bundle")).manifest
    assert "speech" not in manifest.capabilities


def test_without_voices(default_twin: Twin, tmp_path: Path) -> None:
    """A full save of transformers has no spk_dict.pt."""
    folder = shutil.copytree(default_twin.folder, tmp_path / "save")
    (folder / "spk_dict.pt").unlink()
    with pytest.raises(OmniError, match=r"no spk_dict.pt.*--speech-from.*--mute"):
        export_to(folder, tmp_path / "bundle")
    source = read_config(folder, mute=True)
    assert source.speech is None
    assert read_config(folder, speech_from=default_twin.folder) == read_config(folder)


@pytest.mark.parametrize(
    "name",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"base_model.model.{name}",
        lambda name: name.replace("thinker.", "thinker._orig_mod."),
        lambda name: name.replace(".layers.0.", ".layers.0._fsdp_wrapped_module."),
        lambda name: re.sub(  # in memory in transformers 5
            r"^thinker\.(model\.)?(?!lm_head)",
            lambda m: f"thinker.model.{'language_model.' if m[1] else ''}",
            name,
        ),
    ],
)
def test_prefixes(default_twin: Twin, tmp_path: Path, name: Callable[[str], str]) -> None:
    folder = renamed(default_twin.folder, tmp_path / "wrapped", name)
    assert Checkpoint(folder).shapes("") == Checkpoint(default_twin.folder).shapes("")


def test_names_that_become_one(default_twin: Twin, tmp_path: Path) -> None:
    name = "thinker.model.norm.weight"
    folder = rewritten(
        default_twin.folder, tmp_path / "twice", lambda t: t | {f"module.{name}": t[name].clone()}
    )
    with pytest.raises(OmniError, match=f"has tensors twice: module.{name}"):
        Checkpoint(folder)


def test_an_adapter_that_is_not_merged(default_twin: Twin, tmp_path: Path) -> None:
    name = "thinker.model.layers.0.self_attn.q_proj"
    folder = rewritten(
        default_twin.folder,
        tmp_path / "unmerged",
        lambda t: t | {f"base_model.model.{name}.lora_A.default.weight": torch.zeros(2, 2)},
    )
    with pytest.raises(OmniError, match=r"not merged.*--adapter"):
        Checkpoint(folder)


def test_pickles(default_twin: Twin, tmp_path: Path) -> None:
    folder = pickled(default_twin.folder, tmp_path / "pickled")
    checkpoint = Checkpoint(folder)
    assert_same(checkpoint, tensors_of(default_twin.folder))
    name = "thinker.lm_head.weight"
    rows = Checkpoint(folder).claim(name).rows(3, 9)
    np.testing.assert_array_equal(rows, tensors_of(default_twin.folder)[name][3:9].numpy())


def test_damaged_pickles(default_twin: Twin, tmp_path: Path) -> None:
    """No code runs, and each failure is one line that says what the file is."""
    shutil.copyfile(default_twin.folder / "config.json", tmp_path / "config.json")
    path, touched = tmp_path / "pytorch_model.bin", tmp_path / "touched"

    class Evil:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return Path.touch, (touched,)  # type: ignore[return-value]

    torch.save({"x": Evil()}, path)
    with pytest.raises(OmniError, match="damaged"):
        Checkpoint(tmp_path)
    assert not touched.exists()
    torch.save({"x": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(OmniError, match=r"before torch 1\.6|damaged"):
        Checkpoint(tmp_path)
    torch.save({"thinker.x": torch.zeros(4, 4).T[:2]}, path)
    with pytest.raises(OmniError, match="not a plain tensor"):
        Checkpoint(tmp_path)
    torch.save({"thinker.x": torch.zeros(400)}, path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(OmniError, match="damaged or truncated"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("window", [50, 2])
def test_any_window_of_the_audio_encoder(default_twin: Twin, tmp_path: Path, window: int) -> None:
    folder = shutil.copytree(default_twin.folder, tmp_path / "checkpoint")
    edit_json(
        folder / "config.json",
        lambda c: c["thinker_config"]["audio_config"].update(n_window=window),
    )
    local = LocalCheckpoint(folder, "window", "test", mute=True)
    manifest = Bundle(export_to(local, tmp_path / "bundle", "int8")).manifest
    error = manifest.graphs["audio_encoder"].error
    assert manifest.model.audio is not None and error is not None
    assert manifest.model.audio.block_frames == 2 * window
    assert error.cosine > 0.999


def test_an_ordinary_token_ends_a_reply(default_twin: Twin, tmp_path: Path) -> None:
    """One of the vocabulary that no tokenizer marks as special."""
    folder = shutil.copytree(default_twin.folder, tmp_path / "checkpoint")
    tokens = replied(default_twin.model)[0]
    special = default_twin.model.tokenizer.special.values()
    end = next(token for token in tokens[1:] if token not in (tokens[0], *special))
    edit_json(folder / "generation_config.json", lambda c: c.update(eos_token_id=end))
    local = LocalCheckpoint(folder, "ends", "test", mute=True)
    model = Model(export_to(local, tmp_path / "bundle"))
    assert end in model.config.thinker.tokens.eos
    assert replied(model) == (tokens[: tokens.index(end)], "stop")
    assert model.tokenizer.decode([end]) == default_twin.model.tokenizer.decode([end])


def replied(model: Model) -> tuple[list[int], str]:
    conversation = Conversation(model)
    options = ReplyOptions(speech=None, max_tokens=8)
    *_, done = conversation.send("Hello", options)
    return conversation.last_tokens, done.finish_reason
