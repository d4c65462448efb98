"""The reference side of the parity tests: a tiny tokenizer, and transformers' own processor.

torchvision is not installable beside the CPU build of torch, so videos go through the slow image
processor's `videos=` path. `official.py` has the sampling of frames.
"""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tokenizers
import torch
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2TokenizerFast, Qwen2VLImageProcessor, WhisperFeatureExtractor
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as modeling
from transformers.models.qwen2_5_omni.processing_qwen2_5_omni import Qwen2_5OmniProcessor

from omni_runtime.bundle.config import (
    AudioConfig,
    DecoderConfig,
    ModelConfig,
    PositionConfig,
    SpecialTokens,
    ThinkerConfig,
    VisionConfig,
)

TEMPLATE = """\
{%- for message in messages %}
    {%- if loop.first and message['role'] != 'system' %}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['content'] is string %}
        {{- message['content'] }}
    {%- else %}
        {%- for content in message['content'] %}
            {%- if content['type'] == 'image' or 'image' in content %}
                {{- '<|vision_bos|><|IMAGE|><|vision_eos|>' }}
            {%- elif content['type'] == 'audio' or 'audio' in content %}
                {{- '<|audio_bos|><|AUDIO|><|audio_eos|>' }}
            {%- elif content['type'] == 'video' or 'video' in content %}
                {{- '<|vision_bos|><|VIDEO|><|vision_eos|>' }}
            {%- elif 'text' in content %}
                {{- content['text'] }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

_TEXT_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_AUDIO_TOKENS = ["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
_VISION_TOKENS = ["<|vision_bos|>", "<|vision_eos|>", "<|vision_pad|>", "<|IMAGE|>", "<|VIDEO|>"]
SPECIAL = [*_TEXT_TOKENS, *_AUDIO_TOKENS, *_VISION_TOKENS]

_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CORPUS = [
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group.",
    "system\nuser\nassistant\nWhat do you see and hear in this video? Describe the picture.",
    "Grüße aus Köln, что это такое, 你好吗 这是什么, 日本語テキスト, 👩‍👩‍👧 🎉",
    "capable of perceiving auditory and visual inputs, as well as generating text and speech.",
]


def write_tokenizer(path: Path) -> None:
    """Return a byte-level BPE with Qwen's pre-tokenizer: 500 tokens, then Omni's special tokens."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    pieces = pre_tokenizers.Split(Regex(_PIECES), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
    tokenizer.save(str(path))


def special_tokens(path: Path) -> SpecialTokens:
    number = tokenizers.Tokenizer.from_file(str(path)).token_to_id
    return SpecialTokens(
        audio=number("<|AUDIO|>"),
        image=number("<|IMAGE|>"),
        video=number("<|VIDEO|>"),
        audio_bos=number("<|audio_bos|>"),
        audio_eos=number("<|audio_eos|>"),
        vision_bos=number("<|vision_bos|>"),
        vision_eos=number("<|vision_eos|>"),
        eos=(number("<|im_end|>"), number("<|endoftext|>")),
    )


AUDIO = AudioConfig(
    sample_rate=16000,
    n_fft=400,
    hop_length=160,
    n_mels=128,
    padded_samples=300 * 16000,
    block_frames=200,
)

VISION = VisionConfig(
    patch_size=14,
    temporal_patch_size=2,
    merge_size=2,
    window_size=112,
    head_dim=16,
    rope_theta=10000.0,
    image_mean=(0.48145466, 0.4578275, 0.40821073),
    image_std=(0.26862954, 0.26130258, 0.27577711),
    image_min_pixels=4 * 28 * 28,
    image_max_pixels=64 * 28 * 28,
    video_min_pixels=2 * 28 * 28,
    video_max_pixels=6 * 28 * 28,
    video_fps=2.0,
    video_min_frames=4,
    video_max_frames=768,
)

POSITIONS = PositionConfig(ids_per_second=25, seconds_per_chunk=2.0)


def model_config(path: Path) -> ModelConfig:
    decoder = DecoderConfig(
        layers=1,
        hidden_size=16,
        heads=1,
        kv_heads=1,
        head_dim=16,
        vocab_size=512,
        rope_theta=1e6,
        mrope_section=(2, 3, 3),
        max_context=32768,
    )
    thinker = ThinkerConfig(decoder=decoder, tokens=special_tokens(path), positions=POSITIONS)
    prompt = "You are Qwen, a virtual human."
    return ModelConfig(
        thinker=thinker, audio=AUDIO, vision=VISION, speech=None, system_prompt=prompt
    )


def feature_extractor(seconds: int = 300, side: str = "right") -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(feature_size=128, chunk_length=seconds, padding_side=side)


def image_processor() -> Qwen2VLImageProcessor:
    return Qwen2VLImageProcessor(
        min_pixels=VISION.image_min_pixels, max_pixels=VISION.image_max_pixels
    )


class SlowVideoProcessor:
    """The deprecated video path of the image processor, with the video processor's interface."""

    merge_size = VISION.merge_size
    temporal_patch_size = VISION.temporal_patch_size

    def __call__(self, videos: list[np.ndarray], **_: object) -> Any:
        size = {
            "shortest_edge": VISION.video_min_pixels,
            "longest_edge": VISION.video_max_pixels,
        }
        return image_processor().preprocess(images=None, videos=videos, size=size)


def processor(path: Path) -> Any:
    """Qwen2_5OmniProcessor without the constructor's checks, which require torchvision."""
    made: Any = object.__new__(Qwen2_5OmniProcessor)
    made.image_processor = image_processor()
    made.video_processor = SlowVideoProcessor()
    made.feature_extractor = feature_extractor(30)  # a short one is faster; nothing is longer
    made.tokenizer = Qwen2TokenizerFast(tokenizer_file=str(path))
    for kind in ("audio", "image", "video"):
        setattr(made, f"{kind}_token", f"<|{kind.upper()}|>")
    for marker in ("vision_bos", "vision_eos", "audio_bos", "audio_eos"):
        setattr(made, f"{marker}_token", f"<|{marker}|>")
    return made


def rope_index(
    ids: np.ndarray,
    tokens: SpecialTokens,
    *,
    images: list[tuple[int, int, int]] = (),
    videos: list[tuple[int, int, int]] = (),
    frames: list[int] = (),
    seconds: list[float] = (),
    sound_in_video: bool = False,
) -> tuple[np.ndarray, int]:
    """Return the reference's positions (3, n), and the next position of its decoding."""
    cls = modeling.Qwen2_5OmniPreTrainedModelForConditionalGeneration
    fake = SimpleNamespace(
        spatial_merge_size=VISION.merge_size,
        config=SimpleNamespace(
            image_token_id=tokens.image,
            video_token_id=tokens.video,
            audio_token_id=tokens.audio,
            vision_start_token_id=tokens.vision_bos,
            audio_start_token_id=tokens.audio_bos,
            position_id_per_seconds=POSITIONS.ids_per_second,
            seconds_per_chunk=POSITIONS.seconds_per_chunk,
        ),
    )
    fake.get_llm_pos_ids_for_vision = partial(cls.get_llm_pos_ids_for_vision, fake)
    fake.get_chunked_index = partial(cls.get_chunked_index, fake)
    input_ids = torch.from_numpy(ids)[None]
    positions, delta = cls.get_rope_index(
        fake,
        input_ids,
        torch.tensor(images) if len(images) else None,
        torch.tensor(videos) if len(videos) else None,
        torch.ones_like(input_ids),
        sound_in_video,
        torch.tensor(frames),
        torch.tensor(seconds, dtype=torch.float32),
    )
    return positions[:, 0].numpy(), len(ids) + int(delta)
