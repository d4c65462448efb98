"""Checkpoints with random weights in the Hugging Face format, for tests.

They have all parts and files of a published checkpoint, load in transformers, and are reproducible
for a shape and seed. Their replies are noise.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from omni_export import random_shapes, random_weights
from omni_export.model_config import SYSTEM_PROMPT
from omni_export.random_shapes import DEFAULT, PUBLISHED, Shape
from omni_runtime.errors import UsageError

MEL_BINS = 80  # of the reference mels of voices: the default of the DiT

MEDIA_TOKENS = {
    "audio_token": "<|AUDIO|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>",
}
TTS_TOKENS = ("<tts_pad>", "<tts_text_bos>", "<tts_text_eod>", "<tts_text_bos_single_codec>")
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    *MEDIA_TOKENS.values(),
    *TTS_TOKENS,
)

CHAT_TEMPLATE = (
    """\
{%- for message in messages -%}
{%- if loop.first and message['role'] != 'system' -%}
{{ '<|im_start|>system\\n' }}"""
    + SYSTEM_PROMPT
    + """{{ '<|im_end|>\\n' }}
{%- endif -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'audio' -%}
{{ '<|audio_bos|><|AUDIO|><|audio_eos|>' }}
{%- elif part['type'] == 'image' -%}
{{ '<|vision_bos|><|IMAGE|><|vision_eos|>' }}
{%- elif part['type'] == 'video' -%}
{{ '<|vision_bos|><|VIDEO|><|vision_eos|>' }}
{%- else -%}
{{ part['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
"""
)

QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Pre-tokenization of Qwen2, before byte-pair encoding."""

CORPUS = (
    SYSTEM_PROMPT,
    "system user assistant What do you see and hear? I see a red circle and hear a short tone.",
    "How many blue squares are there? There are three blue squares. Which way does it move?",
)


REVISION = "shape 1, seed 0, made in rows"
"""Identifies the random weights of a shape. Change it when their generation changes."""

SHARD_BYTES = 2**29


def shape_of(size: str) -> Shape:
    """Return the shape of `--model random:SIZE`; the smallest one without a size.

    Raises UsageError for an unknown size.
    """
    if not size:
        return DEFAULT
    if size not in PUBLISHED:
        raise UsageError(
            f"there is no random model of size {size!r}",
            fix=f"choose one of {', '.join(PUBLISHED)}",
        )
    return PUBLISHED[size]


def describe(
    folder: Path, shape: Shape = DEFAULT, *, seed: int = 0, dtype: str = "bfloat16"
) -> None:
    """Create a checkpoint in `folder`, which must not exist, without writing its weights.

    `Checkpoint` opens it like any other; the weights are generated when they are read.
    """
    folder.mkdir(parents=True)
    tokenizer = _tokenizer()
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    _write_tokenizer(folder, tokenizer)
    _write_preprocessor(folder)
    _write_config(folder, random_shapes.config(shape, ids, tokenizer.get_vocab_size()), dtype)
    _write_generation(folder, ids)
    _write_voices(folder, ids, shape, seed)
    (folder / "LICENSE").write_text(
        "These weights are random numbers. Anybody may do anything with them (CC0-1.0).\n", "utf-8"
    )
    silenced = (shape.codec.pad, shape.codec.end) if shape.talkative else ()
    description = random_weights.Description(seed=seed, dtype=dtype, silenced=silenced)
    random_weights.describe(folder, description)


def write(
    folder: Path,
    shape: Shape = DEFAULT,
    *,
    seed: int = 0,
    dtype: str = "float32",
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a checkpoint with its weights into `folder`, which must not exist.

    At most one shard of about `shard_bytes`, or one tensor, is in memory at a time.
    """
    describe(folder, shape, seed=seed, dtype=dtype)
    source = random_weights.RandomWeights(folder)
    shards: list[list[str]] = [[]]
    size = 0
    for name, dimensions in source.shapes.items():
        needed = math.prod(dimensions) * source.dtype.itemsize
        if size and size + needed > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += needed
    files = {f"model-{n:05}-of-{len(shards):05}.safetensors": s for n, s in enumerate(shards, 1)}
    total = 0
    for file, names in files.items():
        tensors = {name: source.get(name, None) for name in names}
        total += sum(tensor.nbytes for tensor in tensors.values())
        save_file(tensors, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, names in files.items() for name in names}
    _write_json(  # last: without it the folder is not a checkpoint
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": weight_map},
    )
    (folder / random_weights.DESCRIPTION).unlink()


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_regex(QWEN_PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def _regex(pattern: str) -> Any:
    from tokenizers import Regex  # noqa: PLC0415 - the type stub lacks the name at the top level

    return Regex(pattern)


def _write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    model = json.loads(tokenizer.to_str())["model"]
    _write_json(folder / "vocab.json", model["vocab"])
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "model_max_length": 32768,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "unk_token": None,
            "bos_token": None,
            "add_prefix_space": False,
            "add_bos_token": False,
            "split_special_tokens": False,
            "extra_special_tokens": MEDIA_TOKENS,
            "added_tokens_decoder": {
                str(tokenizer.token_to_id(token)): {
                    "content": token,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "single_word": False,
                    "special": True,
                }
                for token in SPECIAL_TOKENS
            },
        },
    )
    _write_json(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})


def _write_preprocessor(folder: Path) -> None:
    _write_json(
        folder / "preprocessor_config.json",
        {
            "processor_class": "Qwen2_5OmniProcessor",
            "feature_extractor_type": "WhisperFeatureExtractor",
            "image_processor_type": "Qwen2VLImageProcessor",
            "sampling_rate": 16000,
            "feature_size": 128,
            "hop_length": 160,
            "n_fft": 400,
            "chunk_length": 300,
            "n_samples": 4800000,
            "nb_max_frames": 30000,
            "padding_side": "right",
            "padding_value": 0.0,
            "dither": 0.0,
            "return_attention_mask": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "min_pixels": 3136,
            "max_pixels": 12845056,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
        },
    )


def _write_generation(folder: Path, ids: dict[str, int]) -> None:
    _write_json(
        folder / "generation_config.json",
        {
            "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
            "pad_token_id": ids["<|endoftext|>"],
        },
    )


def _write_voices(folder: Path, ids: dict[str, int], shape: Shape, seed: int) -> None:
    random = torch.Generator().manual_seed(seed + 1)
    names = (("Chelsie", "<tts_text_bos>"), ("Ethan", "<tts_text_bos_single_codec>"))
    voices = {
        name: {
            "bos_token": ids[token],
            "cond": torch.randn(1, shape.voice["enc_emb_dim"], generator=random),
            "ref_mel": torch.randn(1, frames, MEL_BINS, generator=random) * 2 - 5,
        }
        for (name, token), frames in zip(names, shape.voice_frames, strict=True)
    }
    torch.save(voices, folder / "spk_dict.pt")


def _write_config(folder: Path, sections: dict[str, Any], dtype: str) -> None:
    from transformers import Qwen2_5OmniConfig  # noqa: PLC0415 - takes seconds to import

    config = Qwen2_5OmniConfig(**sections)
    config.architectures = ["Qwen2_5OmniForConditionalGeneration"]
    config.torch_dtype = dtype
    config.save_pretrained(folder)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", "utf-8")
