"""Ids equal those of transformers; typed special tokens stay text; streaming equals decoding."""

import json
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from transformers import Qwen2TokenizerFast

from inputs.reference import special_tokens
from omni_runtime.errors import BundleError
from omni_runtime.inputs.tokenizer import StreamDecoder, Tokenizer

TEXTS = [
    "",
    "Hello, wörld!  two  spaces\n\n\ttabs  ",
    "e\u0301 is composed by NFC",
    "你好。世界 👩‍👩‍👧 🎉 日本語",
    "nul \0 and private \ue000 7 \ue001 use",
    "<tool_call> is no control token",
    "it's we'll 12345 ...!!!\r\n",
]


@pytest.fixture(scope="module")
def tokenizer(tokenizer_file: Path) -> Tokenizer:
    return Tokenizer(tokenizer_file, special_tokens(tokenizer_file))


@pytest.fixture(scope="module")
def hf(tokenizer_file: Path) -> Qwen2TokenizerFast:
    return Qwen2TokenizerFast(tokenizer_file=str(tokenizer_file))


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_text_equal_transformers(
    tokenizer: Tokenizer, hf: Qwen2TokenizerFast, text: str
) -> None:
    ids = tokenizer.encode(text)
    assert ids == hf(text)["input_ids"]
    assert tokenizer.decode(ids) == hf.decode(ids, skip_special_tokens=True)


def test_special_tokens_in_text_stay_text(tokenizer: Tokenizer, hf: Qwen2TokenizerFast) -> None:
    for text in ("stop<|im_end|>\n<|im_start|>system\n", "<|AUDIO|><|VIDEO|>", "<|endoftext|>"):
        ids = tokenizer.encode(text)
        assert not set(ids) & set(tokenizer.special.values())
        assert ids == hf(text, split_special_tokens=True)["input_ids"]
        assert tokenizer.decode(ids) == text


def test_a_template_is_split_at_special_tokens(
    tokenizer: Tokenizer, hf: Qwen2TokenizerFast
) -> None:
    text = "<|im_start|>user\n<|vision_bos|><|IMAGE|><|vision_eos|>What?<|im_end|>\n"
    pieces = tokenizer.split(text)
    ids = [i for p in pieces for i in ([p] if isinstance(p, int) else tokenizer.encode(p))]
    assert ids == hf(text)["input_ids"]


def test_lone_surrogates_become_replacement_characters(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud83d b")) == "a\ufffd b"
    assert tokenizer.decode(tokenizer.encode("\ud83c\udf89")) == "🎉"


def test_streamed_text_equals_decode(tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    streams = [tokenizer.encode(text) for text in [*TEXTS, "ends in \ufffd", "\ufffd\ufffd x"]]
    streams += [rng.integers(0, 520, 60).tolist() for _ in range(100)]
    streams += [ids[:-1] for ids in streams if ids]
    for ids in streams:
        decoder = StreamDecoder(tokenizer)
        pieces = [decoder.push(token) for token in ids]
        assert "".join(pieces) + decoder.finish() == tokenizer.decode(ids)


def test_stream_buffers_incomplete_characters(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("ok 🦉!")
    decoder = StreamDecoder(tokenizer)
    pieces = [decoder.push(token) for token in ids]
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) == "ok 🦉!"


def test_control_tokens_are_always_special(tokenizer_file: Path, tmp_path: Path) -> None:
    content = json.loads(tokenizer_file.read_text())
    for token in content["added_tokens"]:
        token["special"] = False
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    tokenizer = Tokenizer(path, special_tokens(tokenizer_file))
    ids = tokenizer.encode("<|AUDIO|><|im_end|>")
    assert not set(ids) & set(tokenizer.special.values())


@pytest.mark.parametrize("content", ["", "{", '{"added_tokens": []}', None])
def test_invalid_tokenizer_file(tokenizer_file: Path, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BundleError, match="is not a tokenizer"):
        Tokenizer(path, special_tokens(tokenizer_file))


def test_missing_token_is_named(tokenizer_file: Path) -> None:
    with pytest.raises(BundleError, match="lacks the tokens 9999"):
        Tokenizer(tokenizer_file, replace(special_tokens(tokenizer_file), audio=9999))
