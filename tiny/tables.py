"""The results of compare.py as markdown tables, and as quality.json for the export.

    python -m tiny.tables

Prints markdown and writes tiny/checkpoint/quality.json, which is valid only for these weights and
recipes. Run it last, after assemble and compare.
"""

import json
from collections.abc import Iterator

import msgspec

from omni_export.quality import FILE, QualityFile, rules_digest, weights_digest
from omni_quantize.recipe import load
from tiny import exam
from tiny.compare import INT8_CACHE, PRESETS, RECIPES, RESULTS
from tiny.paths import CHECKPOINT, WORK

Results = dict[str, dict[str, float]]
SPEECH = ("closed WER", "open WER", "open WER, rotated", "nearer to its own voice")


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def answers(reference: Results, compared: Results) -> Iterator[str]:
    """Yield the table of exact answers, one row per evaluation."""
    yield row("exact answers", "items", "transformers, fp32", *(f"bundle, {r}" for r in RECIPES))
    yield row(*["---"] * (3 + len(RECIPES)))
    for name in exam.DRAWS:
        cells = [compared.get(f"{recipe} {name}") for recipe in RECIPES]
        base = reference.get(name)
        if base is None:
            continue
        shares = [percent(cell["exact"]) if cell else "" for cell in cells]
        yield row(name, f"{base['items']:.0f}", percent(base["exact"]), *shares)


def speech(reference: Results, compared: Results) -> Iterator[str]:
    """Yield the table of speech quality, one row per recipe, preset and chunk policy."""
    yield row("spoken replies", "items", *SPEECH)
    yield row(*["---"] * (2 + len(SPEECH)))
    lines = {"transformers, fp32, 0.3": reference.get("speech")}
    for recipe in RECIPES:
        for preset in PRESETS:
            for how in ("streamed", "whole"):
                key = f"{recipe} speech {preset} {how}"
                lines[f"{recipe}, {preset}, {how}"] = compared.get(key)
    for name, scores in lines.items():
        if scores:
            yield row(name, f"{scores['items']:.0f}", *(percent(scores[key]) for key in SPEECH))


def caches(compared: Results) -> Iterator[str]:
    """Yield the table of the int8 KV cache, one row per evaluation."""
    yield row("KV cache", "recipe", "score", "float32", "int8")
    yield row(*["---"] * 5)
    for key, scores in compared.items():
        if not key.endswith(INT8_CACHE) or (base := compared.get(key[: -len(INT8_CACHE)])) is None:
            continue
        recipe, _, name = key[: -len(INT8_CACHE)].partition(" ")
        for score in ("exact", "closed WER", "open WER"):
            if score in scores:
                yield row(name, recipe, score, percent(base[score]), percent(scores[score]))


def write(compared: Results) -> None:
    results: dict[str, Results] = {recipe: {} for recipe in RECIPES}
    for key, scores in compared.items():
        recipe, _, name = key.partition(" ")
        results[recipe][name] = {part: round(value, 4) for part, value in scores.items()}
    record = QualityFile(
        weights=weights_digest(CHECKPOINT),
        rules={recipe: rules_digest(load(recipe)) for recipe in RECIPES},
        results=results,
    )
    text = msgspec.json.format(msgspec.json.encode(record), indent=1)
    (CHECKPOINT / FILE).write_bytes(text + b"\n")


def main() -> None:
    reference: Results = json.loads((WORK / "evaluate.json").read_text())
    compared: Results = json.loads(RESULTS.read_text())
    write(compared)
    lines = [*answers(reference, compared), "", *speech(reference, compared), "", *caches(compared)]
    print("\n".join(lines))  # noqa: T201


if __name__ == "__main__":
    main()
