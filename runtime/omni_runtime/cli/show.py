"""`omni show`: describe a bundle."""

import argparse
import sys

import msgspec

from omni_runtime.bundle.manifest import Manifest, Quality, QuantizationError
from omni_runtime.bundle.store import Bundle
from omni_runtime.cli import phones, ui
from omni_runtime.cli.common import format_size
from omni_runtime.engine.solver import evaluations, nfe


def main(options: argparse.Namespace) -> int:
    """Print a summary of the manifest, all of it as JSON, or what phones can hold of it."""
    manifest = Bundle(options.bundle).manifest
    if options.phone:
        text = phones.table(manifest)
    elif options.json:
        text = msgspec.json.format(msgspec.json.encode(manifest), indent=2).decode()
    else:
        text = describe(manifest)
    sys.stdout.write(text + "\n")
    return 0


def describe(manifest: Manifest) -> str:
    """Return a summary of a bundle in text."""
    origin = manifest.origin
    total = sum(entry.bytes for entry in manifest.files.values())
    lines = [
        f"{manifest.name}  {format_size(total)}",
        f"from      {origin.model}, revision {origin.revision}",
        f"licence   {origin.licence}",
        f"recipe    {manifest.recipe}, for {manifest.target}, by {manifest.exporter}",
        f"can do    {', '.join(manifest.capabilities)}",
    ]
    if (speech := manifest.model.speech) is not None:
        presets = [
            f"{name} ({preset.summary}: {evaluations(preset)} {preset.solver} evaluations, "
            f"{nfe(preset)} passes)"
            for name, preset in speech.presets.items()
        ]
        lines.append(f"voices    {', '.join(speech.voices)}; {speech.default_voice} by default")
        lines.append(f"presets   {'; '.join(presets)}; {speech.default_preset} by default")
    if (measured := manifest.measured) is not None:
        text, audio = (
            "none" if seconds is None else f"{seconds:.2f} s"
            for seconds in (measured.first_text, measured.first_audio)
        )
        lines.append(
            f"measured  first text {text}, first audio {audio}, "
            f"peak {format_size(measured.peak_memory)}, {measured.threads} threads, "
            f"{measured.machine}, "
            f"ONNX Runtime {measured.onnxruntime}"
        )
    elif manifest.not_measured is not None:
        lines.append(f"measured  no: {manifest.not_measured}")
    lines += ["", cost_table(manifest)]
    if manifest.quality is not None:
        lines += ["", quality_table(manifest.quality)]
    return "\n".join(lines)


def quality_table(quality: Quality) -> str:
    """Return a table of the benchmark scores measured with this recipe and these weights."""
    rows = [
        (benchmark, ", ".join(f"{name} {_score(name, value)}" for name, value in scores.items()))
        for benchmark, scores in quality.items()
    ]
    return ui.table(("benchmark", "scores"), rows)


def _score(name: str, value: float) -> str:
    return f"{value:.0f}" if name == "items" else f"{value:.1%}"


def cost_table(manifest: Manifest) -> str:
    """Return a table of graphs and tables: encoding, sizes, quantization error against float32.

    `QuantizationError` says what was compared.
    """
    rows = [
        (
            name,
            graph.weights,
            format_size(graph.fp32_bytes),
            format_size(graph.bytes),
            *_error(graph.error),
            f"{graph.seconds:.1f}",
        )
        for name, graph in manifest.graphs.items()
    ]
    for name, entry in manifest.tables.items():
        before = 4 * entry.rows * entry.columns
        files = [entry.file, *([entry.scales] if entry.scales else [])]
        after = sum(manifest.files[file].bytes for file in files)
        rows.append(
            (
                name,
                entry.encoding,
                format_size(before),
                format_size(after),
                *_error(entry.error),
                "",
            )
        )
    return ui.table(
        ("part", "weights", "float32", "size", "cosine", "max error", "of", "seconds"), rows
    )


def _error(error: QuantizationError | None) -> tuple[str, str, str]:
    if error is None:
        return "", "", ""
    return f"{error.cosine:.5f}", f"{error.relative:.1%}", error.of
