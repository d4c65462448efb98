"""`omni quality`: outputs of a bundle against those of its checkpoint in float32."""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from omni_runtime.cli import ui
from omni_runtime.cli.run import session_options
from omni_runtime.errors import OmniError
from omni_runtime.inputs.messages import Audio, ContentPart, Image
from omni_runtime.model import Model


def main(options: argparse.Namespace) -> int:
    """Compare each part and print a line for each."""
    divergence = _divergence()
    text = divergence.text() if options.text is None else _read(Path(options.text))
    model = Model(options.bundle, session_options(options))
    comparison = divergence.Comparison(model, Path(options.checkpoint))
    found: dict[str, dict[str, float]] = {}
    ui.note("thinker")
    found["thinker"] = vars(comparison.thinker(text, options.tokens))
    if model.config.speech is not None:
        ui.note("talker")
        found["talker"] = vars(comparison.talker(text, options.tokens))
    encoders: list[tuple[str, str | None, type[Audio | Image]]] = [
        ("audio_encoder", options.audio, Audio),
        ("vision_encoder", options.image, Image),
    ]
    for name, file, kind in encoders:
        if file is not None:
            ui.note(name)
            part: ContentPart = kind(Path(file))
            found[name] = {"cosine": comparison.encoder(part)}
    lines = [f"{name:15s} {_line(values)}" for name, values in found.items()]
    sys.stdout.write(json.dumps(found) + "\n" if options.json else "\n".join([*lines, ""]))
    return 0


def _line(values: dict[str, float]) -> str:
    if "cosine" in values:
        return f"cosine similarity {values['cosine']:.4f}"
    return (
        f"KL {values['kl']:.4f}, perplexity {values['perplexity']:.2f} -> "
        f"{values['bundle_perplexity']:.2f}, same first choice {values['equal']:.1%}, "
        f"{values['tokens']} tokens"
    )


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OmniError(f"{path} cannot be read: {error}", fix="a text file in UTF-8") from None


def _divergence() -> Any:
    try:
        return importlib.import_module("omni_export.divergence")
    except ImportError as error:
        raise OmniError(
            f"omni quality needs {error.name}", fix='pip install "pocket-omni[export]"'
        ) from None
