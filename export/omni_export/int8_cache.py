"""Calibrate an int8 KV cache, and write the decoder graphs that use it.

The maximum magnitude of each channel is taken from the float32 KV caches of a few replies of the
new bundle, with audio and image input if it accepts them. Codes are sampled but not synthesized.
Calibration runs in a new process, since it needs more memory than the export. Run as a module,
this file is that process.
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

PROMPTS = (
    "Hello! Who are you, and what can you do?",
    "Tell me in two sentences why the sky is blue in the morning and red in the evening.",
    "What is 17 % of 3,482.50 dollars? Then write a loop in Python that prints it.",
    "Wie heißt die Hauptstadt von Frankreich? 用中文说三句关于春天的话",
)
MAX_TOKENS = 16
MAX_CODES = 72
AUDIO_SECONDS = 2
IMAGE_SIDE = 224
"""Pixels."""

AbsMax = dict[str, list[FloatArray]]
"""Per decoder, for keys and values of each layer in turn: float32 (kv_heads, head_dim)."""


def add(bundle: Path, manifest: Manifest) -> Manifest:
    """Write the int8 cache graphs of a bundle that has its manifest. Return the new manifest.

    Raises OmniError if the bundle fails to reply.
    """
    absmax_by_graph = calibrate(bundle)
    graphs, files = dict(manifest.graphs), dict(manifest.files)
    for name, layers in absmax_by_graph.items():
        path = (bundle / graphs[name].file).with_name(FILE)
        model = ir.load(bundle / graphs[name].file)
        kv_cache.rewrite(model, layers)
        ir.save(model, path)
        file = path.relative_to(bundle).as_posix()
        graphs[name] = msgspec.structs.replace(graphs[name], int8_cache=file)
        files[file] = file_entry(path)
    return msgspec.structs.replace(manifest, graphs=graphs, files=dict(sorted(files.items())))


def calibrate(bundle: Path) -> AbsMax:
    """Run `absmax` in a new process. Raises OmniError if that fails."""
    with TemporaryDirectory(prefix="omni-") as folder:
        file = Path(folder) / "absmax.npz"
        failure, fix = "the new bundle fails to reply", "report this as a defect"
        run_module(__name__, [str(bundle), str(file)], failure=failure, fix=fix)
        with np.load(file) as arrays:
            return {name: list(arrays[name]) for name in arrays}


def absmax(bundle: Path) -> AbsMax:
    """Reply to the prompts. Return the maximum magnitude of each channel of the KV caches."""
    footprint = Footprint.of(read_manifest(bundle))
    speaks = footprint.config.speech is not None
    least = footprint.least(MIN_CONTEXT, speech=speaks, encoders=ENCODERS)
    model = Model(bundle, SessionOptions(memory=least, prepack_cache=False))
    found: AbsMax = {}
    for parts in _prompts(model):
        for name, cache in zip(DECODERS, _reply(model, parts), strict=False):
            magnitudes = channels(cache)
            found[name] = list(map(np.maximum, found.get(name, magnitudes), magnitudes))
    return found


def _reply(model: Model, parts: Sequence[ContentPart]) -> list[KVCache]:
    """Return the KV caches after a reply: the Thinker's, and the Talker's if the bundle speaks."""
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
    """Return the maximum magnitude per channel of keys and values, float32 (kv_heads, head_dim).

    For keys it is the norm of the two channels that RoPE rotates together. The norm is the same at
    every position, while each channel varies between zero and the norm along a long context.
    """
    found: list[FloatArray] = []
    for number, state in enumerate(cache.states):
        magnitudes = np.abs(state[0, :, : cache.length])
        if number % 2 == 0:
            first, second = np.split(magnitudes, 2, axis=-1)
            magnitudes = np.tile(np.hypot(first, second), 2)
        found.append(magnitudes.max(axis=1))
    return found


def _prompts(model: Model) -> list[list[ContentPart]]:
    prompts: list[list[ContentPart]] = [[Text(prompt)] for prompt in PROMPTS]
    random = np.random.default_rng(0)
    if (audio := model.config.audio) is not None:
        sound = random.normal(0, 0.1, AUDIO_SECONDS * audio.sample_rate).astype(np.float32)
        prompts[0].insert(0, Audio((sound, audio.sample_rate)))
    if model.config.vision is not None:
        pixels = random.integers(0, 256, (IMAGE_SIDE // 28, IMAGE_SIDE // 28, 3), np.uint8)
        file = io.BytesIO()
        PIL.Image.fromarray(pixels).resize((IMAGE_SIDE, IMAGE_SIDE)).save(file, "PNG")
        prompts[1].insert(0, Image(file.getvalue()))
    return prompts


if __name__ == "__main__":
    stacked: dict[str, Any] = {
        name: np.stack(found) for name, found in absmax(Path(sys.argv[1])).items()
    }
    np.savez(sys.argv[2], **stacked)
