"""Quantization recipes: JSON files that say how each weight is stored, with reasons.

A recipe has a list of rules per graph; the first that matches a weight applies. Three recipes are
built in; `load_file` reads others.
"""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from omni_runtime.errors import OmniError, UsageError

GRAPHS = ("audio_encoder", "vision_encoder", "thinker", "talker", "dit", "vocoder")
LEVELS = 16
REACH = 32
"""Levels are within -REACH ... REACH - 1: two products with int8 then fit in int16 (AVX2)."""

TABLES = ("thinker_embedding", "talker_embedding", "dit_code")


_LAYER = re.compile(r"\blayers\.(\d+)\.")


class Rule(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the weights whose name matches are quantized.

    `layers` are the numbers of the layers that the rule is for, negative from the end; empty: all.

    `method`: "none" keeps float32; "nbits" stores `bits` bits in blocks of `block` rows
    (MatMulNBits); "dynamic" stores int8 and quantizes activations at run time; "static" stores int8
    and quantizes activations to calibrated ranges, for convolutions of the vocoder. `symmetric`
    blocks have no zero point; with 4 bits their scales are searched. `accuracy_level` 4 multiplies
    in int8, 0 in float32 (nbits only). `levels` are the 16 integers that the indices of symmetric
    4-bit blocks stand for, instead of -8 ... 7; shapes without a kernel keep -8 ... 7.
    """

    match: str
    method: Literal["none", "nbits", "dynamic", "static"]
    reason: str
    bits: Literal[4, 8] = 8
    block: Literal[16, 32, 64, 128, 256] = 32
    symmetric: bool = True
    accuracy_level: Literal[0, 1, 4] = 4
    per_channel: bool = True
    levels: tuple[int, ...] = ()
    layers: tuple[int, ...] = ()

    def matches(self, weight: str, count: int) -> bool:
        """Whether the rule is for this weight of a graph with `count` layers."""
        if not fnmatchcase(weight, self.match):
            return False
        found = _LAYER.search(weight)
        return not self.layers or (
            found is not None and int(found[1]) in {n + count if n < 0 else n for n in self.layers}
        )

    def __post_init__(self) -> None:
        if not self.levels:
            return
        rising = all(a < b for a, b in pairwise(self.levels))
        if len(self.levels) != LEVELS or not rising:
            raise ValueError(f"levels must be {LEVELS} rising integers")
        if self.levels[0] < -REACH or self.levels[-1] >= REACH:
            raise ValueError(f"levels must be within {-REACH} ... {REACH - 1}")
        if (self.method, self.bits, self.symmetric) != ("nbits", 4, True):
            raise ValueError('levels need the method "nbits", 4 bits, and symmetric blocks')


class TableRule(Struct, frozen=True, forbid_unknown_fields=True):
    """How an embedding table is stored."""

    encoding: Literal["float32", "bfloat16", "int8"]
    reason: str


class Recipe(Struct, frozen=True, forbid_unknown_fields=True):
    """Rules for all graphs and all tables."""

    name: str
    summary: str
    graphs: dict[str, tuple[Rule, ...]]
    tables: dict[str, TableRule]

    def rule(self, graph: str, weight: str, count: int) -> Rule:
        """Return the first rule of `graph`, which has `count` layers, that matches a weight."""
        return next(rule for rule in self.graphs[graph] if rule.matches(weight, count))


def layers_in(weights: Iterable[str]) -> int:
    """Return the number of layers that some names of weights belong to."""
    return max((int(found[1]) + 1 for name in weights if (found := _LAYER.search(name))), default=0)


def built_in() -> list[str]:
    """Return the names of the built-in recipes."""
    folder = resources.files("omni_quantize") / "recipes"
    return sorted(
        file.name.removesuffix(".json") for file in folder.iterdir() if file.name.endswith(".json")
    )


def load(name: str) -> Recipe:
    """Load a built-in recipe. Raises UsageError for an unknown name."""
    if name not in built_in():
        raise UsageError(
            f"there is no recipe {name!r}", fix=f"choose one of {', '.join(built_in())}"
        )
    return _parse(
        (resources.files("omni_quantize") / "recipes" / f"{name}.json").read_bytes(), name
    )


def load_file(path: Path) -> Recipe:
    """Load a recipe from a file.

    Raises OmniError if the file cannot be read or does not cover all graphs and tables.
    """
    try:
        return _parse(path.read_bytes(), str(path))
    except OSError as error:
        raise OmniError(
            f"the recipe {path} cannot be read: {error.strerror}", fix="check --recipe"
        ) from None


def _parse(text: bytes, where: str) -> Recipe:
    fix = "start from a copy of quantize/omni_quantize/recipes/int4.json"
    try:
        recipe = msgspec.json.decode(text, type=Recipe)
    except msgspec.DecodeError as error:
        raise OmniError(f"recipe {where}: {error}", fix=fix) from None
    for expected, found in ((GRAPHS, recipe.graphs), (TABLES, recipe.tables)):
        if set(found) != set(expected):
            raise OmniError(
                f"recipe {where} must have {', '.join(expected)}, it has {', '.join(found)}",
                fix=fix,
            )
    for graph, rules in recipe.graphs.items():
        if not rules or rules[-1].match != "*" or rules[-1].layers:
            raise OmniError(f"recipe {where}: {graph} must end with a rule for *", fix=fix)
        if graph != "vocoder" and any(rule.method == "static" for rule in rules):
            raise OmniError(
                f"recipe {where}: {graph} cannot be static; only convolutions of the vocoder can",
                fix='give the rule the method "dynamic", "nbits" or "none"',
            )
    return recipe
