"""The decoders' second files, for an int8 KV cache: calibration of its channels, and the graphs.

The magnitudes are read from the float32 caches of some replies of the new bundle, also to a sound
and a picture where it takes them. Where it speaks, codes are sampled, but not synthesized. All this
runs in a process of its own, like the first reply: it needs more memory than the export itself. Run
as a module, this file is that process.
"""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
import PIL.Image

from omni_export.artifacts import file_entry
from omni_quantize import kv_cache
from omni_runtime.arrays import FloatArray
from omni_runtime.bundle.contracts import DECODERS
from omni_runtime.bundle.manifest import Manifest, read_manifest
from omni_runtime.child_process import run_module
from omni_runtime.context import Context
from omni_runtime.engine.decoder import complete
from omni_runtime.engine.kv_cache import KVCache
from omni_runtime.engine.session import SessionOptions
from omni_runtime.engine.talker import TalkerSettings, own_sampling
from omni_runtime.inputs.messages import Audio, ContentPart, Image, Message, Text
from omni_runtime.memory import ENCODERS, MIN_CONTEXT, Footprint
from omni_runtime.model import Model

FILE = "model.int8_cache.onnx"

QUESTIONS = (
    "Hello! Who are you, and what can you do?",
    "Tell me in two sentences why the sky is blue in the morning and red in the evening.",
    "What is 17 % of 3,482.50 dollars? Then write a loop in Python that prints it.",
    "Wie heißt die Hauptstadt von Frankreich? 用中文说三句关于春天的话",
)
MAX_TOKENS = 16
MAX_CODES = 72
SECONDS_HEARD = 2
PICTURE = 224
"""Pixels on each side."""

AbsMax = dict[str, list[FloatArray]]
"""For each decoder, for keys and values of each layer: (kv_heads, head_dim)."""


def add(bundle: Path, manifest: Manifest) -> Manifest:
    """Write the second files of a bundle whose manifest is written; returns the new manifest.

    Raises OmniError when the bundle does not answer.
    """
    found = calibrated(bundle)
    graphs, files = dict(manifest.graphs), dict(manifest.files)
    for name, channels in found.items():
        path = (bundle / graphs[name].file).with_name(FILE)
        model = ir.load(bundle / graphs[name].file)
        kv_cache.rewrite(model, channels)
        ir.save(model, path)
        file = path.relative_to(bundle).as_posix()
        graphs[name] = msgspec.structs.replace(graphs[name], int8_cache=file)
        files[file] = file_entry(path)
    return msgspec.structs.replace(manifest, graphs=graphs, files=dict(sorted(files.items())))


def calibrated(bundle: Path) -> AbsMax:
    """What `absmax` finds, in a process of its own. Raises OmniError when that fails."""
    with TemporaryDirectory(prefix="omni-") as folder:
        file = Path(folder) / "absmax.npz"
        failure, fix = "the new bundle does not answer", "report this as a defect"
        run_module(__name__, [str(bundle), str(file)], failure=failure, fix=fix)
        with np.load(file) as found:
            return {name: list(found[name]) for name in found}


def absmax(bundle: Path) -> AbsMax:
    """Answer the questions; what each channel of the caches reached."""
    footprint = Footprint.of(read_manifest(bundle))
    speaks = footprint.config.speech is not None
    least = footprint.least(MIN_CONTEXT, speech=speaks, encoders=ENCODERS)
    model = Model(bundle, SessionOptions(memory=least, prepack_cache=False))
    found: AbsMax = {}
    for parts in _questions(model):
        for name, cache in zip(DECODERS, _answer(model, parts), strict=False):
            seen = channels(cache)
            found[name] = list(map(np.maximum, found.get(name, seen), seen))
    return found


def _answer(model: Model, parts: Sequence[ContentPart]) -> list[KVCache]:
    """The caches after a reply: the Thinker's, and the Talker's where it is spoken."""
    context = Context(model)
    logits = context.prefill(model.prompts.build([Message("user", parts)]))
    position, speaks = context.position, model.config.speech is not None
    if speaks:
        complete(context.read_unread())
    rows: list[FloatArray] = []
    while len(rows) < MAX_TOKENS and context.room:
        context.push(int(logits.argmax()))
        output = context.forward()
        logits = output.logits
        rows.append(output.talker_rows[0])
    if not speaks:
        return [context.thinker]
    settings = TalkerSettings(
        own_sampling(model.speech.talker), MAX_CODES, np.random.default_rng(0)
    )
    bos = model.speech.voices[model.speech.default_voice]
    spoken = context.begin_speech()
    speech = model.talker.start(spoken, bos, rows[0], position, settings)
    for row in rows[1:]:
        speech.feed(row)
    speech.end_text()
    while speech.ready:
        speech.step()
    return [context.thinker, spoken]


def channels(cache: KVCache) -> list[FloatArray]:
    """Largest magnitude of the channels of keys and values, float32 (kv_heads, head_dim) per layer.

    Of keys the length of the pair of channels that rotates together, which is the same at every
    position: in a long context one of them becomes what the other was at its beginning.
    """
    found: list[FloatArray] = []
    for number, state in enumerate(cache.states):
        seen = np.abs(state[0, :, : cache.length])
        if number % 2 == 0:
            first, second = np.split(seen, 2, axis=-1)
            seen = np.tile(np.hypot(first, second), 2)
        found.append(seen.max(axis=1))
    return found


def _questions(model: Model) -> list[list[ContentPart]]:
    questions: list[list[ContentPart]] = [[Text(question)] for question in QUESTIONS]
    random = np.random.default_rng(0)
    if (audio := model.config.audio) is not None:
        sound = random.normal(0, 0.1, SECONDS_HEARD * audio.sample_rate).astype(np.float32)
        questions[0].insert(0, Audio((sound, audio.sample_rate)))
    if model.config.vision is not None:
        pixels = random.integers(0, 256, (PICTURE // 28, PICTURE // 28, 3), np.uint8)
        file = io.BytesIO()
        PIL.Image.fromarray(pixels).resize((PICTURE, PICTURE)).save(file, "PNG")
        questions[1].insert(0, Image(file.getvalue()))
    return questions


if __name__ == "__main__":
    stacked: dict[str, Any] = {
        name: np.stack(found) for name, found in absmax(Path(sys.argv[1])).items()
    }
    np.savez(sys.argv[2], **stacked)
