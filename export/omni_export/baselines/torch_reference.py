"""Baseline torch: the encoders, DiT and vocoder of transformers.

The weights are random float32 of the shape in a checkpoint's config.json; no weights are read.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import Qwen2_5OmniConfig
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as reference

from omni_export.source import SourceConfig, read_config
from omni_runtime.bench import components
from omni_runtime.bench.rows import Comparison, ProgressCallback, Quantity, seconds
from omni_runtime.errors import UsageError
from omni_runtime.model import Model

REFERENCE_MEL = 300
"""Reference mel frames of a published voice, which transformers encodes in each evaluation."""

NAME = f"torch {torch.__version__}, transformers {transformers.__version__}, float32"


@contextmanager
def comparisons(
    model: Model, names: Sequence[str], checkpoint: Path, progress: ProgressCallback
) -> Generator[tuple[str, Iterator[Comparison]]]:
    """Compare with transformers on networks of the shape of `checkpoint`, created on demand.

    Raises UsageError if the shape differs from that of the bundle.
    """
    del progress  # nothing takes long
    _check_shape(model, read_config(checkpoint))
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(model.options.resolved_threads())
    config: Any = Qwen2_5OmniConfig.from_pretrained(checkpoint, trust_remote_code=False)
    makers = {"audio": _audio, "image": _images, "dit": _dit, "vocoder": _vocoder}
    yield NAME, (one for name in names for one in makers[name](model, config))


def _check_shape(model: Model, source: SourceConfig) -> None:
    decoder, speech = model.config.thinker.decoder, model.config.speech
    here: list[object] = [decoder.hidden_size, decoder.layers]
    there: list[object] = [source.text.hidden_size, source.text.num_hidden_layers]
    if speech is not None:
        here += [speech.dit.hidden_size, speech.dit.layers, [*speech.vocoder.stage_rates]]
        other = source.speech
        there += [other.dit.hidden_size, other.dit.num_hidden_layers] if other else []
        there += [other.vocoder.upsample_rates] if other else []
    if here != there:
        raise UsageError(
            "the checkpoint has another shape than the bundle",
            fix="--checkpoint FOLDER with the checkpoint that the bundle was exported from",
        )


def _audio(model: Model, config: Any) -> Iterator[Comparison]:
    encoder = reference.Qwen2_5OmniAudioEncoder(config.thinker_config.audio_config).eval()
    (work,) = components.audio(model)
    mel = torch.from_numpy(np.asarray(components.mel_of_audio(model)))
    frames = mel.shape[1]
    lengths = torch.tensor([frames]), torch.tensor([(frames - 1) // 2 + 1])
    yield _comparison(
        work.quantities[0],
        lambda: work.run()[0],
        lambda: encoder(mel, feature_lens=lengths[0], aftercnn_lens=lengths[1]),
    )


def _images(model: Model, config: Any) -> Iterator[Comparison]:
    encoder = reference.Qwen2_5OmniVisionEncoder(config.thinker_config.vision_config).eval()
    for work, side in zip(components.image(model), components.IMAGES.values(), strict=True):
        patches = components.patches_of_image(model, side)
        values, grid = torch.from_numpy(patches.values), torch.tensor([patches.grid])
        yield _comparison(
            work.quantities[0],
            lambda work=work: work.run()[0],
            lambda values=values, grid=grid: encoder(values, grid_thw=grid),
        )


def _dit(model: Model, config: Any) -> Iterator[Comparison]:
    shape = config.token2wav_config.dit_config
    network = reference.Qwen2_5OmniToken2WavDiTModel(shape).eval()
    work, speech = components.dit_evaluation(model), model.speech
    codes = components.random_codes(speech, components.COMMIT_BLOCKS + components.LOOK_AHEAD_BLOCKS)
    frames = len(codes) * speech.dit.frames_per_code
    inputs: dict[str, Any] = {
        "hidden_states": torch.randn(1, frames, shape.mel_dim),
        "quantized_code": torch.from_numpy(codes)[None],
        "speaker_embedding": torch.randn(1, frames, shape.enc_emb_dim),
        "condition_vector": torch.randn(1, REFERENCE_MEL, shape.mel_dim),
        "time_step": torch.tensor(0.5),
        "apply_cfg": True,
    }
    per = frames * components.frame_seconds(speech)
    yield _comparison(work.quantities[0], lambda: work.run()[0], lambda: network(**inputs), per)


def _vocoder(model: Model, config: Any) -> Iterator[Comparison]:
    network = reference.Qwen2_5OmniToken2WavBigVGANModel(
        config.token2wav_config.bigvgan_config
    ).eval()
    speech = model.speech
    mel = components.random_mel(speech, components.COMMIT_BLOCKS * speech.dit.block_frames)
    per = len(mel) * components.frame_seconds(speech)
    theirs = torch.from_numpy(mel.T.copy())[None]
    yield _comparison(
        Quantity("vocoder", "s/s", False, f"{len(mel)} frames at once, no context"),
        lambda: seconds(lambda: model.vocoder.synthesize(mel, 0, 0)) / per,
        lambda: network(theirs),
        per,
    )


def _comparison(
    quantity: Quantity,
    ours: Callable[[], float | None],
    act: Callable[[], object],
    per: float = 1.0,
) -> Comparison:
    def mine() -> float:
        value = ours()
        assert value is not None
        return value

    def theirs() -> float:
        with torch.inference_mode():
            return seconds(act) / per

    return Comparison(quantity, mine, theirs)
