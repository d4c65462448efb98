"""`omni quality`: nothing is lost in float32, and losses are those that transformers would see."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from conftest import TRAINED, Twin
from omni_export.divergence import Comparison, text
from omni_export.second_moments import token_ids
from omni_runtime.cli.main import main
from omni_runtime.inputs.messages import Audio, Image

DATA = Path(__file__).parent.parent / "data"
SPEECH = DATA / "seven_plus_five.flac"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    noise = np.random.default_rng(0).integers(0, 256, (84, 112, 3))
    Picture.fromarray(noise.astype(np.uint8)).save(path)
    return path


def test_float32_loses_nothing(twin: Twin, picture: Path) -> None:
    comparison = Comparison(twin.model, twin.folder)
    thinker, talker = comparison.thinker(text(), 40), comparison.talker(text(), 40)
    for found in (thinker, talker):
        assert abs(found.kl) < 1e-6 and found.equal == 1
        assert found.bundle_perplexity == pytest.approx(found.perplexity, rel=1e-4)
    assert thinker.tokens == 39 and talker.tokens > 0
    ids = torch.tensor([token_ids(text(), twin.model.tokenizer)[:40]])
    logits = twin.reference.thinker(input_ids=ids).logits[0]
    loss = torch.nn.functional.cross_entropy(logits[:-1].float(), ids[0, 1:])
    assert thinker.perplexity == pytest.approx(float(loss.exp()), rel=1e-4)
    for _ in range(2):  # any part can be compared again
        assert comparison.encoder(Audio(SPEECH)) == pytest.approx(1, abs=1e-5)
    assert comparison.encoder(Image(picture)) == pytest.approx(1, abs=1e-5)


def test_the_command(export_trained, picture: Path, capsys) -> None:
    words = ["quality", str(export_trained("int4")), "--checkpoint", str(TRAINED), "--tokens", "60"]
    assert main([*words, "--json", "--audio", str(SPEECH), "--image", str(picture)]) == 0
    found = json.loads(capsys.readouterr().out)
    for part in ("thinker", "talker"):
        assert 1e-6 < found[part]["kl"] < 0.2
    for part in ("audio_encoder", "vision_encoder"):
        assert 0.99 < found[part]["cosine"] < 1
    assert main(words) == 0
    assert "thinker         KL 0.0" in capsys.readouterr().out


def test_another_shape_is_an_error(default_twin: Twin, capsys) -> None:
    words = ["quality", str(default_twin.bundle), "--checkpoint", str(TRAINED)]
    assert main(words) == 2
    assert "another shape than the bundle" in capsys.readouterr().err


def test_a_text_of_nothing(default_twin: Twin, tmp_path: Path, capsys) -> None:
    (tmp_path / "empty.txt").touch()
    words = ["quality", str(default_twin.bundle), "--checkpoint", str(default_twin.folder)]
    assert main([*words, "--text", str(tmp_path / "empty.txt")]) == 2
    assert "less than two tokens" in capsys.readouterr().err
    assert main([*words, "--text", str(tmp_path / "none.txt")]) == 1
