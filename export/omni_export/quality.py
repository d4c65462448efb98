"""Benchmark scores of a recipe, copied from the checkpoint to the manifest.

Nothing is measured here: `tiny.compare` measures the small checkpoint and writes quality.json next
to its weights. The scores are valid only for these weights and rules, so digests of both are
compared.
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
    """`weights`: digest of all weights. `rules`, `results`: per recipe its digest and scores."""

    weights: str
    rules: dict[str, str]
    results: dict[str, Quality]


def weights_digest(checkpoint: Path) -> str:
    """Return the SHA-256 of all shards, hexadecimal."""
    shards = sorted(checkpoint.glob("*.safetensors"))
    return hashlib.sha256("".join(map(sha256_of, shards)).encode()).hexdigest()


def rules_digest(recipe: Recipe) -> str:
    """Return the SHA-256 of a recipe, hexadecimal."""
    return hashlib.sha256(msgspec.json.encode(recipe)).hexdigest()


def measured(checkpoint: Path, recipe: Recipe) -> Quality | None:
    """Return the scores of `recipe` on these weights, or None if they were not measured.

    Raises OmniError for an invalid quality.json.
    """
    path = checkpoint / FILE
    if not path.is_file():
        return None
    try:
        file = msgspec.json.decode(path.read_bytes(), type=QualityFile)
    except msgspec.DecodeError as error:
        raise OmniError(f"{path}: {error}", fix="delete it, or measure again") from None
    same = file.rules.get(recipe.name) == rules_digest(recipe)
    if not same or file.weights != weights_digest(checkpoint):
        return None
    return file.results.get(recipe.name)
