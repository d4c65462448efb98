"""Random checkpoints: the published shapes, and equality of stored and generated weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import Twin
from omni_export import random_checkpoint, random_weights
from omni_export.checkpoint import Checkpoint
from omni_export.cli import main
from omni_export.random_shapes import DEFAULT
from omni_export.random_weights import RandomWeights

TALKER = "talker.model.layers.23."
DIT = "token2wav.code2wav_dit_model."
VOCODER = "token2wav.code2wav_bigvgan_model."

SAME_IN_BOTH = {
    "thinker.audio_tower.layers.31.fc1.weight": (5120, 1280),
    "thinker.audio_tower.conv1.weight": (1280, 128, 3),
    "thinker.visual.patch_embed.proj.weight": (1280, 3, 2, 14, 14),
    "thinker.visual.blocks.31.mlp.gate_proj.weight": (3420, 1280),
    "talker.model.embed_tokens.weight": (8448, ...),
    DIT + "transformer_blocks.21.attn.to_q.weight": (1024, 1024),
    DIT + "transformer_blocks.21.ff.ff.0.weight": (2048, 1024),
    DIT + "transformer_blocks.21.attn_norm.linear.weight": (6144, 1024),
    DIT + "text_embed.codec_embed.weight": (8194, 512),
    DIT + "input_embed.proj.weight": (1024, 80 + 128 + 512 + 192),
    VOCODER + "conv_pre.weight": (1536, 80, 7),
    VOCODER + "ups.0.0.weight": (1536, 768, 11),
    VOCODER + "ups.5.0.weight": (48, 24, 4),
}
OWN = {
    "3b": {
        "thinker.model.embed_tokens.weight": (151936, 2048),
        "thinker.lm_head.weight": (151936, 2048),
        "thinker.model.layers.35.self_attn.q_proj.weight": (16 * 128, 2048),
        "thinker.model.layers.35.self_attn.k_proj.weight": (2 * 128, 2048),
        "thinker.model.layers.35.mlp.up_proj.weight": (11008, 2048),
        "thinker.audio_tower.proj.weight": (2048, 1280),
        "thinker.visual.merger.mlp.2.weight": (2048, 5120),
        "talker.thinker_to_talker_proj.weight": (896, 2048),
        TALKER + "self_attn.q_proj.weight": (14 * 64, 896),
        TALKER + "self_attn.v_proj.weight": (2 * 64, 896),
        TALKER + "mlp.down_proj.weight": (896, 4864),
    },
    "7b": {
        "thinker.model.embed_tokens.weight": (152064, 3584),
        "thinker.lm_head.weight": (152064, 3584),
        "thinker.model.layers.27.self_attn.q_proj.weight": (28 * 128, 3584),
        "thinker.model.layers.27.self_attn.k_proj.weight": (4 * 128, 3584),
        "thinker.model.layers.27.mlp.up_proj.weight": (18944, 3584),
        "thinker.audio_tower.proj.weight": (3584, 1280),
        "thinker.visual.merger.mlp.2.weight": (3584, 5120),
        "talker.thinker_to_talker_proj.weight": (896, 3584),
        TALKER + "self_attn.q_proj.weight": (12 * 128, 896),
        TALKER + "self_attn.v_proj.weight": (4 * 128, 896),
        TALKER + "mlp.down_proj.weight": (896, 18944),
    },
}
LAYERS = {"3b": 36, "7b": 28}
WEIGHTS = {"3b": (5.4e9, 5.6e9), "7b": (10.6e9, 10.8e9)}
"""Published: 12 GB and 22 GB of bfloat16, speech and all."""


@pytest.mark.slow
@pytest.mark.parametrize("size", ["3b", "7b"])
def test_published_shapes(tmp_path: Path, size: str) -> None:
    random_checkpoint.describe(tmp_path / "c", random_checkpoint.shape_of(size))
    shapes = RandomWeights(tmp_path / "c").shapes
    for name, shape in {**SAME_IN_BOTH, **OWN[size]}.items():
        found = shapes[name]
        assert len(found) == len(shape) and all(
            wanted in (..., is_) for wanted, is_ in zip(shape, found, strict=True)
        ), (name, found)
    assert sum(name.endswith("mlp.up_proj.weight") and name.startswith("thinker.model")
               for name in shapes) == LAYERS[size]  # fmt: skip
    low, high = WEIGHTS[size]
    assert low < sum(int(np.prod(shape)) for shape in shapes.values()) < high
    rows = Checkpoint(tmp_path / "c").claim("thinker.lm_head.weight").rows(151000, 151003)
    assert rows.shape == (3, shapes["thinker.lm_head.weight"][1])
    assert 0.8 < rows.std() * rows.shape[1] ** 0.5 < 1.2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_generated_equals_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    monkeypatch.setattr(random_weights, "VALUES_AT_ONCE", 1000)  # stretches of a few rows
    random_checkpoint.write(tmp_path / "written", seed=3, dtype=dtype, shard_bytes=500_000)
    random_checkpoint.describe(tmp_path / "unwritten", seed=3, dtype=dtype)
    assert len(list((tmp_path / "written").glob("*.safetensors"))) > 3
    written, unwritten = Checkpoint(tmp_path / "written"), Checkpoint(tmp_path / "unwritten")
    assert written.shapes("") == unwritten.shapes("")
    seen: set[bytes] = set()
    for name, shape in written.shapes("").items():
        wanted, handle = written.claim(name).read(), unwritten.claim(name)
        assert np.array_equal(handle.read(), wanted), name
        some = shape[0] // 3, shape[0] - shape[0] // 4
        assert np.array_equal(handle.rows(*some), wanted[slice(*some)]), name
        if wanted.size > 8:
            assert wanted.tobytes() not in seen, f"{name} equals another tensor"
        seen.add(wanted.tobytes())


def test_transformers_loads_the_checkpoint(default_twin: Twin) -> None:
    checkpoint = Checkpoint(default_twin.folder)
    state = default_twin.reference.state_dict()
    assert checkpoint.shapes("").keys() == state.keys()
    for name in ("thinker.lm_head.weight", "token2wav.code2wav_bigvgan_model.conv_pre.weight"):
        wanted = torch.from_numpy(checkpoint.claim(name).read())
        assert torch.equal(state[name], wanted)
    silenced = state["talker.codec_head.weight"][[DEFAULT.codec.pad, DEFAULT.codec.end]]
    assert not silenced.any()


def test_the_command_writes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--model", "random", "--write", "made"]) == 0
    assert Checkpoint(tmp_path / "made").shapes("thinker.lm_head.weight")
    for words, complaint in (
        (["--model", "random", "--write", "made"], "made exists"),
        (["--model", "random:4b"], "there is no random model of size '4b' (choose one of 3b, 7b)"),
        (["--model", "tiny", "--write", "more"], "needs a random checkpoint"),
    ):
        capsys.readouterr()
        assert main(words) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and complaint in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
