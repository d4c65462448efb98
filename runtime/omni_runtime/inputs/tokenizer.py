"""Text to token ids and back. User text never becomes a special token.

Not a chat format (`prompt.py`). Special tokens are split off the template text. The text between
them, joined with user text, is encoded with special tokens disabled. The ids equal those of
transformers, but "<|im_end|>" typed by a user stays ordinary text.
"""

import json
import re
from os import PathLike
from pathlib import Path
from typing import Any, cast

import tokenizers

from omni_runtime.bundle.config import SpecialTokens
from omni_runtime.errors import BundleError, ContextFullError

_tokenizer_class = cast(Any, tokenizers.Tokenizer)  # its stubs are incomplete
_INCOMPLETE = "\ufffd"
_PIECE = 4096
_CUT_TOKENS = 16
"""Tokens that a cut inside a word may add."""


class Tokenizer:
    """Byte-level BPE from the tokenizer.json of the checkpoint."""

    def __init__(self, path: str | PathLike[str], tokens: SpecialTokens) -> None:
        """Load `path`. `tokens` are special even if the file does not mark them.

        A token that ends a reply may also be an ordinary one of the vocabulary; it stays ordinary.
        Raises BundleError when the file cannot be read or lacks one of `tokens`.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
            self._backend: Any = _tokenizer_class.from_str(_with_special(text, tokens))
        except Exception as error:  # tokenizers raises plain Exception
            raise BundleError(
                f"{path} is not a tokenizer: {error}", fix="export the bundle again"
            ) from error
        self._backend.encode_special_tokens = True
        added = self._backend.get_added_tokens_decoder()
        self.special: dict[str, int] = {t.content: i for i, t in added.items() if t.special}
        known = {i for i in tokens.eos if self._backend.id_to_token(i) is not None}
        missing = sorted(_control_tokens(tokens) - {*self.special.values(), *known})
        if missing:
            raise BundleError(
                f"{path} lacks the tokens {', '.join(map(str, missing))} of the configuration",
                fix="export the bundle again",
            )
        longest_first = sorted(map(re.escape, self.special), key=len, reverse=True)
        self._special_pattern = re.compile(f"({'|'.join(longest_first)})")

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        """Encode plain text, without special tokens. Lone surrogates become U+FFFD.

        Raises ContextFullError for a text of clearly more than `limit` tokens, without encoding all
        of it.
        """
        valid = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if limit is not None and len(valid) > max(limit, _PIECE):
            self._require_at_most(limit, valid)
        return self._backend.encode(valid, add_special_tokens=False).ids

    def _require_at_most(self, limit: int, text: str) -> None:
        """Count tokens in pieces. A cut between them changes the count by few tokens."""
        count, size = 0, max(limit, _PIECE)
        for start in range(0, len(text), size):
            piece = text[start : start + size]
            count += len(self._backend.encode(piece, add_special_tokens=False).ids) - _CUT_TOKENS
            if count > limit:
                raise ContextFullError(
                    f"a text of {len(text):,} characters is longer than the model's context of "
                    f"{limit:,} tokens",
                    fix="shorten it",
                )

    def split(self, template: str) -> list[int | str]:
        """Split template text into ids of special tokens and the plain text between them."""
        parts = self._special_pattern.split(template)
        return [self.special.get(part, part) for part in parts if part]

    def decode(self, ids: list[int]) -> str:
        """Decode `ids`, skipping special tokens. Bytes that are not UTF-8 become U+FFFD."""
        return self._backend.decode(ids, skip_special_tokens=True)

    def content(self, token: int) -> str:
        """Return the written form of a token, for error messages."""
        return self._backend.id_to_token(token) or f"token {token}"


class StreamDecoder:
    """Streaming decoder. Its outputs, joined, equal `Tokenizer.decode` of all ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        """Append a token; return the text it completes, empty inside a UTF-8 character."""
        self._pending.append(token)
        text = self._tokenizer.decode(self._pending)
        if text.endswith(_INCOMPLETE):
            return ""
        self._pending.clear()
        return text

    def finish(self) -> str:
        """Return the remaining text after the last token."""
        text = self._tokenizer.decode(self._pending)
        self._pending.clear()
        return text


def _control_tokens(tokens: SpecialTokens) -> set[int]:
    media = {tokens.audio, tokens.image, tokens.video, tokens.audio_bos, tokens.audio_eos}
    return media | {tokens.vision_bos, tokens.vision_eos, *tokens.eos}


def _with_special(text: str, tokens: SpecialTokens) -> str:
    """Return the tokenizer.json with all control tokens marked special."""
    content = json.loads(text)
    controls = _control_tokens(tokens)
    plain = [t for t in content["added_tokens"] if t["id"] in controls and not t["special"]]
    for token in plain:
        token["special"] = True
    return json.dumps(content) if plain else text
