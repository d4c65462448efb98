"""Checkpoints with random weights in the Hugging Face format, for trials and tests.

They have every part and every file of a published checkpoint, are read by transformers itself,
and are the same for the same shape and seed. They answer with noise: nothing was learned.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from omni_export.model_config import SYSTEM_PROMPT

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
"""How Qwen2 cuts text before byte-pair encoding."""

CORPUS = (
    SYSTEM_PROMPT,
    "system user assistant What do you see and hear? I see a red circle and hear a short tone.",
    "How many blue squares are there? There are three blue squares. Which way does it move?",
)


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a Thinker or Talker. `mrope` adds up to half of `head_dim`."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    mrope: tuple[int, int, int]

    def config(self) -> dict[str, Any]:
        return {
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": 32768,
            "rope_theta": 1000000.0,
            "rope_scaling": {
                "mrope_section": list(self.mrope),
                "rope_type": "default",
                "type": "default",
            },
        }


@dataclass(frozen=True)
class Shape:
    """Sizes of a whole model. The defaults are the smallest that exercise every mechanism."""

    thinker: DecoderShape = DecoderShape(3, 128, 4, 2, 32, 256, (4, 6, 6))
    talker: DecoderShape = DecoderShape(2, 96, 4, 2, 32, 192, (8, 8, 0))
    audio: dict[str, int] = field(
        default_factory=lambda: {"layers": 2, "width": 64, "heads": 4, "inner": 128}
    )
    vision: dict[str, Any] = field(
        default_factory=lambda: {"layers": 3, "width": 64, "heads": 4, "inner": 96, "full": [1]}
    )
    dit: dict[str, Any] = field(
        default_factory=lambda: {
            "layers": 4,
            "width": 64,
            "heads": 4,
            "head_dim": 16,
            "ahead": [2],
            "back": [0, 3],
        }
    )
    vocoder: dict[str, Any] = field(
        default_factory=lambda: {
            "channels": 64,
            "kernels": [3, 7],
            "dilations": [[1, 3, 5], [1, 3, 5]],
        }
    )
    codes: int = 61
    """Codes with a meaning; the Talker's special codes follow."""
    talkative: bool = True
    """Make the Talker's end codes unlikely, so that random speech lasts a while."""


DEFAULT = Shape()

REVISION = "shape 1, seed 0"
"""Identifies the default random weights; raise it when their making changes."""


def write(
    folder: Path, shape: Shape = DEFAULT, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> None:
    """Write a checkpoint into `folder`, which must not exist yet."""
    folder.mkdir(parents=True)
    tokenizer = _tokenizer()
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    _write_tokenizer(folder, tokenizer)
    _write_preprocessor(folder)
    model = _model(shape, ids, tokenizer.get_vocab_size(), seed)
    model.to(dtype).save_pretrained(folder, max_shard_size="2MB")
    _write_generation(folder, ids)
    _write_voices(folder, ids, model.config.token2wav_config.dit_config, seed)
    (folder / "LICENSE").write_text(
        "These weights are random numbers. Anybody may do anything with them (CC0-1.0).\n", "utf-8"
    )


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
    from tokenizers import Regex  # noqa: PLC0415 - the type stub has no such name at top level

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
            "padding_side": "left",
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


def _write_voices(folder: Path, ids: dict[str, int], dit: Any, seed: int) -> None:
    random = torch.Generator().manual_seed(seed + 1)
    voices = {
        name: {
            "bos_token": ids[token],
            "cond": torch.randn(1, dit.enc_emb_dim, generator=random),
            "ref_mel": torch.randn(1, frames, dit.mel_dim, generator=random) * 2 - 5,
        }
        for name, token, frames in (
            ("Chelsie", "<tts_text_bos>", 61),
            ("Ethan", "<tts_text_bos_single_codec>", 48),
        )
    }
    torch.save(voices, folder / "spk_dict.pt")


def _model(shape: Shape, ids: dict[str, int], vocabulary: int, seed: int) -> Any:
    from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration  # noqa: PLC0415

    config = Qwen2_5OmniConfig(
        thinker_config=_thinker(shape, ids, vocabulary),
        talker_config=_talker(shape, ids),
        token2wav_config=_token2wav(shape),
        enable_audio_output=True,
    )
    model = Qwen2_5OmniForConditionalGeneration(config)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_values(name, parameter, random))
        if shape.talkative:
            model.talker.codec_head.weight[shape.codes : shape.codes + 2] = 0  # pad and end
    return model.eval()


def _values(name: str, parameter: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Values that keep signals near 1 through all layers, with every bias and gain in play."""
    noise = torch.randn(parameter.shape, generator=random)
    if "embed_tokens" in name or "codec_embed" in name:
        return noise
    if parameter.ndim > 1:
        # The vocoder adds up many branches and is cut at -1 and 1: smaller gains keep it inside.
        gain = 0.4 if "bigvgan" in name else 1.0
        return gain * noise / parameter[0].numel() ** 0.5
    gain = "norm" in name or "ln_" in name
    return noise * 0.1 + (1.0 if gain and name.endswith("weight") else 0.0)


def _thinker(shape: Shape, ids: dict[str, int], vocabulary: int) -> dict[str, Any]:
    audio, vision = shape.audio, shape.vision
    return {
        "audio_token_index": ids["<|AUDIO|>"],
        "image_token_index": ids["<|IMAGE|>"],
        "video_token_index": ids["<|VIDEO|>"],
        "audio_start_token_id": ids["<|audio_bos|>"],
        "audio_end_token_id": ids["<|audio_eos|>"],
        "vision_start_token_id": ids["<|vision_bos|>"],
        "vision_end_token_id": ids["<|vision_eos|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "position_id_per_seconds": 25,
        "seconds_per_chunk": 2,
        "audio_config": {
            "num_mel_bins": 128,
            "d_model": audio["width"],
            "encoder_layers": audio["layers"],
            "encoder_attention_heads": audio["heads"],
            "encoder_ffn_dim": audio["inner"],
            "n_window": 100,
            "output_dim": shape.thinker.hidden,
        },
        "vision_config": {
            "depth": vision["layers"],
            "hidden_size": vision["width"],
            "intermediate_size": vision["inner"],
            "num_heads": vision["heads"],
            "fullatt_block_indexes": vision["full"],
            "out_hidden_size": shape.thinker.hidden,
        },
        "text_config": {**shape.thinker.config(), "vocab_size": vocabulary},
    }


def _talker(shape: Shape, ids: dict[str, int]) -> dict[str, Any]:
    first = shape.codes
    return {
        **shape.talker.config(),
        "head_dim": shape.talker.head_dim,
        "embedding_size": shape.thinker.hidden,
        "vocab_size": shape.codes + 6,
        "tts_codec_end_token_id": first + 1,
        "tts_codec_pad_token_id": first,
        "tts_codec_start_token_id": first + 2,
        "tts_codec_mask_token_id": first + 3,
        "tts_text_pad_token_id": ids["<tts_pad>"],
        "tts_text_start_token_id": ids["<tts_text_bos>"],
        "tts_text_end_token_id": ids["<tts_text_eod>"],
        "audio_token_index": ids["<|AUDIO|>"],
        "image_token_index": ids["<|IMAGE|>"],
        "video_token_index": ids["<|VIDEO|>"],
        "audio_start_token_id": ids["<|audio_bos|>"],
        "audio_end_token_id": ids["<|audio_eos|>"],
        "vision_start_token_id": ids["<|vision_bos|>"],
        "vision_end_token_id": ids["<|vision_eos|>"],
        "pad_token_id": first,
    }


def _token2wav(shape: Shape) -> dict[str, Any]:
    dit, vocoder = shape.dit, shape.vocoder
    return {
        "dit_config": {
            "hidden_size": dit["width"],
            "num_hidden_layers": dit["layers"],
            "num_attention_heads": dit["heads"],
            "head_dim": dit["head_dim"],
            "emb_dim": 32,
            "look_ahead_layers": dit["ahead"],
            "look_backward_layers": dit["back"],
            # Untrained logits favour any code, so each one has a row in the DiT's table.
            "num_embeds": shape.codes + 5,
            "enc_emb_dim": 24,
            "enc_dim": 16,
            "enc_channels": [32, 32, 32, 32, 96],
            "enc_attention_channels": 16,
            "enc_se_channels": 16,
        },
        "bigvgan_config": {
            "upsample_initial_channel": vocoder["channels"],
            "resblock_kernel_sizes": vocoder["kernels"],
            "resblock_dilation_sizes": vocoder["dilations"],
        },
    }


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", "utf-8")
