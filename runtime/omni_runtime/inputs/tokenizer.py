"""Text to token ids and back, with what a user types kept apart from what controls the model.

Not a chat format (that is `prompt.py`). The one idea: special tokens are split off template text
by us, and the text between them, template and user text joined, is encoded with special tokens
switched off; so ids are those of transformers, and "<|im_end|>" typed by a user stays nine letters.
"""

import json
import re
from os import PathLike
from pathlib import Path
from typing import Any, cast

import tokenizers

from omni_runtime.bundle.config import SpecialTokens
from omni_runtime.errors import BundleError

_tokenizer_class = cast(Any, tokenizers.Tokenizer)  # its stubs leave types out
_INCOMPLETE = "\ufffd"


class Tokenizer:
    """The checkpoint's byte-level BPE from its tokenizer.json."""

    def __init__(self, path: str | PathLike[str], tokens: SpecialTokens) -> None:
        """Read `path`; `tokens` are special even if the file doesn't say so.

        Raises BundleError when the file can't be read or lacks one of `tokens`.
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
        missing = sorted(_controls(tokens) - set(self.special.values()))
        if missing:
            raise BundleError(
                f"{path} lacks the tokens {', '.join(map(str, missing))} of the configuration",
                fix="export the bundle again",
            )
        longest_first = sorted(map(re.escape, self.special), key=len, reverse=True)
        self._special_pattern = re.compile(f"({'|'.join(longest_first)})")

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: nothing in it is special. Lone surrogates become U+FFFD."""
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return self._backend.encode(whole, add_special_tokens=False).ids

    def split(self, template: str) -> list[int | str]:
        """Cut template text into ids of special tokens and the plain text between them."""
        parts = self._special_pattern.split(template)
        return [self.special.get(part, part) for part in parts if part]

    def decode(self, ids: list[int]) -> str:
        """Text of `ids` without special tokens; bytes that aren't UTF-8 become U+FFFD."""
        return self._backend.decode(ids, skip_special_tokens=True)

    def content(self, token: int) -> str:
        """The written form of a token, as for an error message."""
        return self._backend.id_to_token(token) or f"token {token}"


class StreamDecoder:
    """Decode ids one by one: what it gives, joined, equals `Tokenizer.decode` of all of them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._held: list[int] = []

    def push(self, token: int) -> str:
        """The text that is certain after one more token; empty inside a UTF-8 character."""
        self._held.append(token)
        text = self._tokenizer.decode(self._held)
        if text.endswith(_INCOMPLETE):
            return ""
        self._held.clear()
        return text

    def finish(self) -> str:
        """What is still held back when no token follows."""
        text = self._tokenizer.decode(self._held)
        self._held.clear()
        return text


def _controls(tokens: SpecialTokens) -> set[int]:
    media = {tokens.audio, tokens.image, tokens.video, tokens.audio_bos, tokens.audio_eos}
    return media | {tokens.vision_bos, tokens.vision_eos, *tokens.eos}


def _with_special(text: str, tokens: SpecialTokens) -> str:
    """The tokenizer.json with the tokens that control the model marked special, if one isn't."""
    content = json.loads(text)
    controls = _controls(tokens)
    plain = [t for t in content["added_tokens"] if t["id"] in controls and not t["special"]]
    for token in plain:
        token["special"] = True
    return json.dumps(content) if plain else text
