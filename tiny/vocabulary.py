"""The tokenizer: a byte-level BPE of the checkpoint's domain, with Omni's special tokens.

    python -m tiny.vocabulary

Training the BPE assigns the ids of the special tokens. Other modules get them from `Special`, and
users of the checkpoint from config.json. The system prompt is part of the training text, because
every conversation starts with it.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tiny import grammar, questions
from tiny.paths import CHECKPOINT

SYSTEM = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of "
    "perceiving auditory and visual inputs, as well as generating text and speech."
)
SPECIALS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>",
    "<|vision_bos|>", "<|vision_eos|>", "<|IMAGE|>", "<|VIDEO|>", "<|tts_pad|>", "<|tts_bos|>",
    "<|tts_eos|>", "<|voice_joe|>", "<|voice_ada|>",
)  # fmt: skip
MERGED = 832
"""Number of bytes and merges; the special tokens follow."""
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEMPLATE = (
    "{% if not messages or messages[0]['role'] != 'system' %}<|im_start|>system\n"
    + SYSTEM
    + "<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{% elif part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif part['type'] == 'video' %}<|vision_bos|><|VIDEO|><|vision_eos|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Special:
    """Ids of the special tokens."""

    size: int
    end_of_text: int
    im_start: int
    im_end: int
    audio: int
    image: int
    video: int
    audio_bos: int
    audio_eos: int
    vision_bos: int
    vision_eos: int
    tts_pad: int
    tts_start: int
    tts_end: int
    voices: dict[str, int]
    user: int


def _texts() -> Iterator[str]:
    rng = random.Random(0)  # noqa: S311
    for _ in range(200):
        yield f"system\n{SYSTEM}\nuser\nassistant\n"
    yield from grammar.replies()
    for _ in range(20_000):
        for turn in questions.ask_for("train", rng):
            yield turn.question
            yield turn.answer


def train() -> Tokenizer:
    """Train a byte-level BPE that splits text as Qwen's does, so digits are single tokens."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(WORDS), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MERGED,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in SPECIALS])
    return tokenizer


def save(tokenizer: Tokenizer) -> None:
    """Write the files of a Qwen2 tokenizer, with the token names that Omni's processor needs."""
    CHECKPOINT.mkdir(exist_ok=True)
    tokenizer.save(str(CHECKPOINT / "tokenizer.json"), pretty=False)
    tokenizer.model.save(str(CHECKPOINT))
    named = {
        "audio_token": "<|AUDIO|>",
        "image_token": "<|IMAGE|>",
        "video_token": "<|VIDEO|>",
        "audio_bos_token": "<|audio_bos|>",
        "audio_eos_token": "<|audio_eos|>",
        "vision_bos_token": "<|vision_bos|>",
        "vision_eos_token": "<|vision_eos|>",
    }
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "model_max_length": 8192,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "additional_special_tokens": list(SPECIALS),
        "extra_special_tokens": named,
        "chat_template": TEMPLATE,
    }
    settings["added_tokens_decoder"] = {
        str(tokenizer.token_to_id(t)): {
            "content": t, "lstrip": False, "rstrip": False, "normalized": False,
            "single_word": False, "special": True,
        }
        for t in SPECIALS
    }  # fmt: skip
    _write("tokenizer_config.json", settings)
    _write("chat_template.json", {"chat_template": TEMPLATE})
    (CHECKPOINT / "chat_template.jinja").write_text(TEMPLATE)


def _write(name: str, value: dict[str, object]) -> None:
    (CHECKPOINT / name).write_text(json.dumps(value, indent=2) + "\n")


@cache
def load() -> Tokenizer:
    return Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))


@cache
def special() -> Special:
    ids = {token: load().token_to_id(token) for token in (*SPECIALS, "user")}
    rounded = -(-load().get_vocab_size() // 16) * 16
    return Special(
        size=rounded,
        end_of_text=ids["<|endoftext|>"],
        im_start=ids["<|im_start|>"],
        im_end=ids["<|im_end|>"],
        audio=ids["<|AUDIO|>"],
        image=ids["<|IMAGE|>"],
        video=ids["<|VIDEO|>"],
        audio_bos=ids["<|audio_bos|>"],
        audio_eos=ids["<|audio_eos|>"],
        vision_bos=ids["<|vision_bos|>"],
        vision_eos=ids["<|vision_eos|>"],
        tts_pad=ids["<|tts_pad|>"],
        tts_start=ids["<|tts_bos|>"],
        tts_end=ids["<|tts_eos|>"],
        voices={"Joe": ids["<|voice_joe|>"], "Ada": ids["<|voice_ada|>"]},
        user=ids["user"],
    )


if __name__ == "__main__":
    save(train())
