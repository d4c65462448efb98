"""What a recipe costs in right answers and clear speech, where somebody measured it.

Not a measurement: the small checkpoint's `tiny.compare` makes one and leaves it beside the weights
as quality.json; the export hands it on in the manifest. It counts for those weights and those
rules alone, so a changed byte of either makes it void.
"""

import hashlib
from pathlib import Path

import msgspec
from msgspec import Struct

from omni_quantize.recipe import Recipe
from omni_runtime.bundle.manifest import Quality
from omni_runtime.checksums import sha256_of
from omni_runtime.errors import OmniError

FILE = "quality.json"


class QualityFile(Struct, frozen=True, forbid_unknown_fields=True):
    """`weights` is a digest of all weights; per recipe a digest of its rules and the results."""

    weights: str
    rules: dict[str, str]
    results: dict[str, Quality]


def weights_digest(checkpoint: Path) -> str:
    """SHA-256 over all shards, hexadecimal."""
    shards = sorted(checkpoint.glob("*.safetensors"))
    return hashlib.sha256("".join(map(sha256_of, shards)).encode()).hexdigest()


def rules_digest(recipe: Recipe) -> str:
    """SHA-256 of everything a recipe says, hexadecimal."""
    return hashlib.sha256(msgspec.json.encode(recipe)).hexdigest()


def measured(checkpoint: Path, recipe: Recipe) -> Quality | None:
    """The results of `recipe` on these weights, or None if nobody measured exactly that.

    Raises OmniError for a quality.json that can't be understood.
    """
    path = checkpoint / FILE
    if not path.is_file():
        return None
    try:
        found = msgspec.json.decode(path.read_bytes(), type=QualityFile)
    except msgspec.DecodeError as error:
        raise OmniError(f"{path}: {error}", fix="delete it, or measure again") from None
    same = found.rules.get(recipe.name) == rules_digest(recipe)
    if not same or found.weights != weights_digest(checkpoint):
        return None
    return found.results.get(recipe.name)
