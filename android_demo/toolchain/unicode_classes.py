"""Write the engine's table of Unicode classes, as the Python runtime's tokenizer library has them.

Phones have the Unicode version of their Android release; with a table of its own the engine cuts
text alike on all of them. Run it when the library moves to another version of Unicode.
"""

import unicodedata
from pathlib import Path

from tokenizers import Regex, pre_tokenizers  # pyright: ignore[reportAttributeAccessIssue]

KOTLIN = (
    Path(__file__).parent.parent
    / "engine/src/main/kotlin/org/pocketomni/engine/inputs/UnicodeRanges.kt"
)
CLASSES = {"LETTERS": r"\p{L}", "NUMBERS": r"\p{N}", "BLANKS": r"\s"}
WIDE = "WIDE"
"""Characters as wide as Chinese ones, which the timeline of a reply counts as words."""
STEP, WIDTH = 4096, 100
SURROGATES = range(0xD800, 0xE000)
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"

HEAD = """/**
 * Ranges of code points, written by android_demo/toolchain/unicode_classes.py.
 *
 * Pairs in base 36: code points from the end of the last range to the next one, and its length.
 */
package org.pocketomni.engine.inputs
"""


def kotlin() -> str:
    """Return the content of the Kotlin file."""
    tables = [HEAD]
    members = {name: _members(pattern) for name, pattern in CLASSES.items()}
    members[WIDE] = [n for n in range(0x110000) if unicodedata.east_asian_width(chr(n)) in "WF"]
    for name, points in members.items():
        words = " ".join(_encoded(points))
        lines: list[str] = []
        while words:
            cut = words.rfind(" ", 0, WIDTH) + 1 if len(words) > WIDTH else len(words)
            lines.append(f'        "{words[:cut]}"')
            words = words[cut:]
        tables.append(f"internal const val {name} =\n    " + " +\n".join(lines).lstrip() + "\n")
    return "\n".join(tables)


def _members(pattern: str) -> list[int]:
    """Return the code points that the library's regular expression matches."""
    removed = pre_tokenizers.Split(Regex(pattern), "removed")
    found: list[int] = []
    for base in range(0, 0x110000, STEP):
        points = [point for point in range(base, base + STEP) if point not in SURROGATES]
        pieces = removed.pre_tokenize_str("".join(map(chr, points)))
        kept = {character for piece, _ in pieces for character in piece}
        found += [point for point in points if chr(point) not in kept]
    return found


def _encoded(members: list[int]) -> list[str]:
    words: list[str] = []
    end = start = 0
    for point, following in zip(members, [*members[1:], -1], strict=True):
        if point != end or not words:
            start = point
            words.append(_base36(point - end))
        end = point + 1
        if following != end:
            words.append(_base36(end - start))
    return words


def _base36(number: int) -> str:
    text = ""
    while number or not text:
        number, digit = divmod(number, 36)
        text = DIGITS[digit] + text
    return text


if __name__ == "__main__":
    KOTLIN.write_text(kotlin(), "utf-8")
