"""The last stage: assemble the trained parts into a checkpoint that transformers loads.

    python -m tiny.assemble

Each part is one safetensors shard, so a part that is trained again replaces only its own shard.
Weights are bfloat16, which compresses to a fifth less than float16 in the repository's history.
A part without new weights in work/ keeps its shard, or gets random weights if it has none.
"""

import json
import random
from collections.abc import Iterator
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import Qwen2_5OmniForConditionalGeneration

from omni_export.second_moments import FILE, MAX_TOKENS
from tiny import dit, questions, scenes, sizes, vocabulary
from tiny.codec import encoded
from tiny.paths import CHECKPOINT, WORK
from tiny.speech import SPEAKERS
from tiny.weights import PARTS, SOURCES, Source, shard, stored


def trained() -> Iterator[tuple[Source, dict[str, torch.Tensor]]]:
    for source in SOURCES:
        path = WORK / f"{source.stage}.pt"
        if path.exists():
            state = torch.load(path, weights_only=True)["average"]
            inside = {k: v for k, v in state.items() if k.startswith(source.inside)}
            yield (
                source,
                {source.outside + k.removeprefix(source.inside): v for k, v in inside.items()},
            )


def weights() -> tuple[dict[str, torch.Tensor], set[str]]:
    """Return every weight of the model, and the stages that have a file in work/."""
    torch.manual_seed(0)
    model = Qwen2_5OmniForConditionalGeneration(sizes.omni(vocabulary.special()))
    state = {key: value.detach().clone() for key, value in model.state_dict().items()}
    kept = {k: v for k, v in stored("").items() if k in state and state[k].shape == v.shape}
    fresh: dict[str, torch.Tensor] = {}
    stages: set[str] = set()
    for source, found in trained():
        fresh |= found
        stages.add(source.stage)
    state = {key: value.bfloat16() for key, value in {**state, **fresh}.items()}
    return {**state, **{k: v for k, v in kept.items() if k not in fresh}}, stages


def write_voices() -> None:
    """Write each voice: its fixed vector and two seconds of reference audio."""
    voices: dict[str, Any] = {}
    streams = dit.Streams(encoded())
    for voice in SPEAKERS:
        rng = torch.Generator().manual_seed(7)
        voices[voice] = {
            "bos_token": vocabulary.special().voices[voice],
            "cond": dit.speaker_vector(voice),
            "ref_mel": streams.reference(voice, rng, 300)[None].contiguous().clone(),
        }
    torch.save(voices, CHECKPOINT / "spk_dict.pt")


def write_settings() -> None:
    special = vocabulary.special()
    config = sizes.omni(special).to_dict()
    config["architectures"] = ["Qwen2_5OmniModel"]
    config["torch_dtype"] = "bfloat16"
    config.pop("dtype", None)
    _write("config.json", config)
    _write(
        "generation_config.json",
        {
            "eos_token_id": [special.im_end, special.end_of_text],
            "pad_token_id": special.end_of_text,
            "do_sample": False,
            "talker_temperature": sizes.TALKER_TEMPERATURE,
        },
    )
    pixels = scenes.SIDE * scenes.SIDE
    _write(
        "preprocessor_config.json",
        {
            "processor_class": "Qwen2_5OmniProcessor",
            "feature_extractor_type": "WhisperFeatureExtractor",
            "image_processor_type": "Qwen2VLImageProcessor",
            "sampling_rate": 16_000,
            "feature_size": sizes.AUDIO["num_mel_bins"],
            "hop_length": 160,
            "n_fft": 400,
            "chunk_length": 300,
            "n_samples": 4_800_000,
            "nb_max_frames": 30_000,
            "padding_side": "right",
            "padding_value": 0.0,
            "dither": 0.0,
            "return_attention_mask": True,
            "image_mean": scenes.MEAN.round(8).tolist(),
            "image_std": scenes.SPREAD.round(8).tolist(),
            "min_pixels": pixels,
            "max_pixels": pixels,
            "video_min_pixels": pixels,
            "video_max_pixels": pixels,
            "patch_size": scenes.PATCH,
            "temporal_patch_size": 2,
            "merge_size": scenes.MERGE,
        },
    )


def write_calibration() -> None:
    """Write questions and replies of the training part, which the export fits 4-bit weights on."""
    rng = random.Random("calibration")  # noqa: S311
    told = ""
    while len(vocabulary.load().encode(told).ids) < MAX_TOKENS:
        for turn in questions.ask_for("train", rng):
            told += f"<|im_start|>user\n{turn.question}<|im_end|>\n"
            told += f"<|im_start|>assistant\n{turn.answer}<|im_end|>\n"
    (CHECKPOINT / FILE).write_text(told)


def _write(name: str, value: dict[str, Any]) -> None:
    (CHECKPOINT / name).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def same(path: str, part: dict[str, torch.Tensor]) -> bool:
    """Return whether the shard on disk already holds these weights and need not be written."""
    file = CHECKPOINT / path
    if not file.exists():
        return False
    with safe_open(file, "pt") as old:
        names = set(old.keys())
        return names == set(part) and all(torch.equal(old.get_tensor(k), part[k]) for k in names)


def main() -> None:
    CHECKPOINT.mkdir(exist_ok=True)
    state, stages = weights()
    places: dict[str, str] = {}
    for name, prefixes in PARTS.items():
        part = {k: v.contiguous() for k, v in state.items() if k.startswith(prefixes)}
        places |= dict.fromkeys(part, shard(name))
        if not same(shard(name), part):
            save_file(part, CHECKPOINT / shard(name), {"format": "pt"})
    assert set(places) == set(state), "a weight has no part"
    total = sum(value.numel() * 2 for value in state.values())
    _write(
        "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places}
    )
    write_settings()
    write_calibration()
    if "dit" in stages and (WORK / "encoded.pt").exists():
        write_voices()
    size = sum(path.stat().st_size for path in CHECKPOINT.iterdir()) / 2**20
    print(f"{CHECKPOINT}: {size:.2f} MiB; in work/: {', '.join(sorted(stages)) or 'nothing'}")  # noqa: T201


if __name__ == "__main__":
    main()
