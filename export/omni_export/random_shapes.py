"""Shapes of random checkpoints: a minimal one for tests, and the published ones.

`config` turns a shape into the content of config.json. The published sizes are those of
Qwen2.5-Omni-3B and -7B; only the shape of the 3B's Talker could not be confirmed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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
class CodecShape:
    """The Talker's vocabulary, its special ids, and the rows of the DiT's table of codes."""

    vocabulary: int
    rows: int
    pad: int
    start: int
    end: int
    mask: int


@dataclass(frozen=True)
class Shape:
    """Sizes of a model. The defaults are the smallest that exercise every mechanism."""

    thinker: DecoderShape = DecoderShape(3, 128, 4, 2, 32, 256, (4, 6, 6))
    talker: DecoderShape = DecoderShape(2, 96, 4, 2, 32, 192, (8, 8, 0))
    vocabulary: int | None = None
    """Rows of the Thinker's embedding table; None for the size of the tokenizer."""
    audio: dict[str, int] = field(
        default_factory=lambda: {"layers": 2, "width": 64, "heads": 4, "inner": 128}
    )
    vision: dict[str, Any] = field(
        default_factory=lambda: {"layers": 3, "width": 64, "heads": 4, "inner": 96, "full": [1]}
    )
    codec: CodecShape = CodecShape(67, 66, pad=61, start=63, end=62, mask=64)
    """Untrained logits can select any code, so each one has a row in the DiT's table."""
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
    voice: dict[str, Any] = field(
        default_factory=lambda: {
            "emb_dim": 32,
            "enc_emb_dim": 24,
            "enc_dim": 16,
            "enc_channels": [32, 32, 32, 32, 96],
            "enc_attention_channels": 16,
            "enc_se_channels": 16,
        }
    )
    """Widths in the DiT's input: codes, speaker vector, voice encoder."""
    voice_frames: tuple[int, int] = (61, 48)
    """Frames of the reference mels of the two voices."""
    vocoder: dict[str, Any] = field(
        default_factory=lambda: {
            "channels": 64,
            "kernels": [3, 7],
            "dilations": [[1, 3, 5], [1, 3, 5]],
        }
    )
    talkative: bool = True
    """Zero the logits of the Talker's end codes, so that random speech lasts longer."""


DEFAULT = Shape()

_COMMON: dict[str, Any] = {
    "audio": {"layers": 32, "width": 1280, "heads": 20, "inner": 5120},
    "vision": {
        "layers": 32,
        "width": 1280,
        "heads": 16,
        "inner": 3420,
        "full": [7, 15, 23, 31],
    },
    "codec": CodecShape(8448, 8193, pad=8292, start=8293, end=8294, mask=8296),
    "dit": {
        "layers": 22,
        "width": 1024,
        "heads": 16,
        "head_dim": 64,
        "ahead": [10],
        "back": [0, 20],
    },
    "voice": {
        "emb_dim": 512,
        "enc_emb_dim": 192,
        "enc_dim": 128,
        "enc_channels": [256, 256, 256, 256, 768],
        "enc_attention_channels": 64,
        "enc_se_channels": 64,
    },
    "voice_frames": (400, 300),
    "vocoder": {
        "channels": 1536,
        "kernels": [3, 7, 11],
        "dilations": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
    },
}

PUBLISHED = {
    "3b": Shape(
        thinker=DecoderShape(36, 2048, 16, 2, 128, 11008, (16, 24, 24)),
        talker=DecoderShape(24, 896, 14, 2, 64, 4864, (16, 16, 0)),
        vocabulary=151936,
        **_COMMON,
    ),
    "7b": Shape(
        thinker=DecoderShape(28, 3584, 28, 4, 128, 18944, (16, 24, 24)),
        talker=DecoderShape(24, 896, 12, 4, 128, 18944, (16, 24, 24)),
        vocabulary=152064,
        **_COMMON,
    ),
}
"""The shapes of `--model random:3b` and `random:7b`."""


def config(shape: Shape, ids: Mapping[str, int], tokens: int) -> dict[str, Any]:
    """Return config.json for a tokenizer of `tokens` tokens with these special `ids`."""
    return {
        "thinker_config": _thinker(shape, ids, tokens),
        "talker_config": _talker(shape, ids),
        "token2wav_config": _token2wav(shape),
        "enable_audio_output": True,
    }


def _media(ids: Mapping[str, int]) -> dict[str, int]:
    """Return the media token ids, which Thinker and Talker share."""
    return {
        "audio_token_index": ids["<|AUDIO|>"],
        "image_token_index": ids["<|IMAGE|>"],
        "video_token_index": ids["<|VIDEO|>"],
        "audio_start_token_id": ids["<|audio_bos|>"],
        "audio_end_token_id": ids["<|audio_eos|>"],
        "vision_start_token_id": ids["<|vision_bos|>"],
        "vision_end_token_id": ids["<|vision_eos|>"],
    }


def _thinker(shape: Shape, ids: Mapping[str, int], tokens: int) -> dict[str, Any]:
    audio, vision = shape.audio, shape.vision
    return {
        **_media(ids),
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
        "text_config": {**shape.thinker.config(), "vocab_size": shape.vocabulary or tokens},
    }


def _talker(shape: Shape, ids: Mapping[str, int]) -> dict[str, Any]:
    codec = shape.codec
    return {
        **shape.talker.config(),
        "head_dim": shape.talker.head_dim,
        "embedding_size": shape.thinker.hidden,
        "vocab_size": codec.vocabulary,
        "tts_codec_end_token_id": codec.end,
        "tts_codec_pad_token_id": codec.pad,
        "tts_codec_start_token_id": codec.start,
        "tts_codec_mask_token_id": codec.mask,
        "tts_text_pad_token_id": ids["<tts_pad>"],
        "tts_text_start_token_id": ids["<tts_text_bos>"],
        "tts_text_end_token_id": ids["<tts_text_eod>"],
        **_media(ids),
        "pad_token_id": codec.pad,
    }


def _token2wav(shape: Shape) -> dict[str, Any]:
    dit, vocoder = shape.dit, shape.vocoder
    return {
        "dit_config": {
            "hidden_size": dit["width"],
            "num_hidden_layers": dit["layers"],
            "num_attention_heads": dit["heads"],
            "head_dim": dit["head_dim"],
            "look_ahead_layers": dit["ahead"],
            "look_backward_layers": dit["back"],
            "num_embeds": shape.codec.rows,
            **shape.voice,
        },
        "bigvgan_config": {
            "upsample_initial_channel": vocoder["channels"],
            "resblock_kernel_sizes": vocoder["kernels"],
            "resblock_dilation_sizes": vocoder["dilations"],
        },
    }
