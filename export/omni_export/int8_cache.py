"""The decoders' second files, for a KV cache of int8: what its channels reach, and the graphs.

What keys and values reach is read from the float32 caches of some replies of the new bundle,
spoken where it speaks, to a sound and a picture too where it hears and sees. They are made in a
process of its own, as the first reply is: a reply is not bounded in memory as the export is.
"""

import io
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import PIL.Image

from omni_export.parts import file_entry
from omni_quantize import kv_cache
from omni_quantize.production import FloatArray
from omni_runtime.bundle.manifest import Manifest
from omni_runtime.conversation import Conversation
from omni_runtime.engine.kv_cache import KVCache
from omni_runtime.errors import OmniError
from omni_runtime.inputs.messages import Audio, Image, Part, Text
from omni_runtime.memory import DECODERS
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, SpeechOptions

FILE = "model.int8_cache.onnx"

QUESTIONS = (
    "Hello! Who are you, and what can you do?",
    "Tell me in two sentences why the sky is blue in the morning and red in the evening.",
    "What is 17 times 23, and how did you work it out? Then write a loop in Python that prints it.",
    "Wie heißt die Hauptstadt von Frankreich? 用中文说三句关于春天的话",
    "I had 3,482.50 dollars on 12 May 2024; what is left after a rent of 1,150 and a tax of 8 %?",
)
MAX_TOKENS = 24
MAX_CODES = 72
SECONDS_HEARD = 2
PICTURE = 224
"""Pixels on each side."""

Reach = dict[str, list[FloatArray]]
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


def calibrated(bundle: Path) -> Reach:
    """What `reach` finds, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(reach, bundle).result()
        except BrokenProcessPool:
            raise OmniError(
                "the new bundle died while its cache was calibrated", fix="close other programs"
            ) from None


def reach(bundle: Path) -> Reach:
    """Ask the questions; what each channel of the caches reached."""
    model = Model(bundle)
    speech = None
    if model.config.speech is not None:
        quickest = min(model.passes, key=lambda name: model.passes[name])  # nobody hears it
        speech = SpeechOptions(preset=quickest, max_codes=MAX_CODES)
    found: Reach = {}
    for parts in _questions(model):
        conversation = Conversation(model)
        for _ in conversation.send(parts, ReplyOptions(speech, max_tokens=MAX_TOKENS)):
            # After each event: the rows of what is being spoken leave the Talker's cache again.
            for name, cache in zip(DECODERS, conversation.caches, strict=False):
                seen = channels(cache)
                found[name] = list(map(np.maximum, found.get(name, seen), seen))
    return found


def channels(cache: KVCache) -> list[FloatArray]:
    """What the channels of keys and values of each layer reach, float32 (kv_heads, head_dim) each.

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


def _questions(model: Model) -> list[list[Part]]:
    questions: list[list[Part]] = [[Text(question)] for question in QUESTIONS]
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
