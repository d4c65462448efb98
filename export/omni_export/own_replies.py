"""Replies of a new bundle: what its KV caches hold, and what its Talker reads while it speaks.

An int8 KV cache needs the largest magnitudes of each channel, and the Talker's 4-bit blocks are
fitted to the inputs that it makes for itself. Both come from replies to a few fixed prompts, with
audio and image input if the bundle accepts them, and to user messages of the calibration text.
Codes are sampled but not synthesized. The replies are made in a new process, since they need more
memory than the export. Run as a module, this file is that process.
"""

import io
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import PIL.Image

from omni_runtime.arrays import FloatArray
from omni_runtime.bundle.contracts import DECODERS
from omni_runtime.bundle.manifest import read_manifest
from omni_runtime.child_process import run_module
from omni_runtime.context import Context
from omni_runtime.engine.decoder import complete
from omni_runtime.engine.kv_cache import KVCache
from omni_runtime.engine.session import SessionOptions
from omni_runtime.engine.talker import Talker, TalkerSettings, own_sampling
from omni_runtime.inputs.messages import Audio, ContentPart, Image, Message, Text
from omni_runtime.memory import ENCODERS, MIN_CONTEXT, Footprint
from omni_runtime.model import Model

PROMPTS = (
    "Hello! Who are you, and what can you do?",
    "Tell me in two sentences why the sky is blue in the morning and red in the evening.",
    "What is 17 % of 3,482.50 dollars? Then write a loop in Python that prints it.",
    "Wie heißt die Hauptstadt von Frankreich? 用中文说三句关于春天的话",
)
MESSAGE = re.compile(r"<\|im_start\|>user\n([^<]+)<\|im_end\|>")
MESSAGES = 24
"""Messages of the calibration text that are answered, at most."""
MAX_TOKENS = 16
MAX_CODES = 150
AUDIO_SECONDS = 2
IMAGE_SIDE = 224
"""Pixels."""

AbsMax = dict[str, list[FloatArray]]
"""Per decoder, for keys and values of each layer in turn: float32 (kv_heads, head_dim)."""

TALKER_ROWS = "talker rows"


@dataclass(frozen=True)
class Observed:
    """`absmax`: the largest magnitudes of each channel of the KV caches.

    `talker_rows`: the Talker's inputs in all replies, one after the other, float32 (rows,
    input_size).
    """

    absmax: AbsMax
    talker_rows: FloatArray


def observe(bundle: Path, calibration: str = "") -> Observed:
    """Run `replies` in a new process. Raises OmniError if that fails."""
    with TemporaryDirectory(prefix="omni-") as folder:
        file, text = Path(folder) / "observed.npz", Path(folder) / "calibration.txt"
        text.write_text(calibration, "utf-8")
        failure, fix = "the new bundle fails to reply", "report this as a defect"
        run_module(__name__, [str(bundle), str(text), str(file)], failure=failure, fix=fix)
        with np.load(file) as arrays:
            absmax = {name: list(arrays[name]) for name in arrays if name != TALKER_ROWS}
            return Observed(absmax, arrays[TALKER_ROWS])


def replies(bundle: Path, calibration: str = "") -> Observed:
    """Reply to the prompts and to messages of `calibration`, and return what was observed."""
    footprint = Footprint.of(read_manifest(bundle))
    speaks = footprint.config.speech is not None
    least = footprint.least(MIN_CONTEXT, speech=speaks, encoders=ENCODERS)
    model = Model(bundle, SessionOptions(memory=least, prepack_cache=False))
    found: AbsMax = {}
    spoken = [np.zeros((0, model.config.thinker.decoder.hidden_size), np.float32)]
    for parts in [*_prompts(model), *messages(calibration)]:
        caches = _reply(model, parts, spoken)
        for name, cache in zip(DECODERS, caches, strict=False):
            magnitudes = channels(cache)
            found[name] = list(map(np.maximum, found.get(name, magnitudes), magnitudes))
    return Observed(found, np.concatenate(spoken))


def _reply(model: Model, parts: Sequence[ContentPart], spoken: list[FloatArray]) -> list[KVCache]:
    """Return the KV caches after a reply: the Thinker's, and the Talker's if the bundle speaks.

    Appends the Talker's inputs to `spoken`.
    """
    context = Context(model)
    logits = context.prefill(model.prompts.build([Message("user", parts)]))
    position, speaks = context.position, model.config.speech is not None
    if speaks:
        spoken.append(context.unread.arrays()[0])
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
    cache = context.begin_speech()
    speech = model.talker.start(cache, bos, rows[0], position, settings)
    for row in rows[1:]:
        speech.feed(row)
    speech.end_text()
    while speech.ready:
        speech.step()
    spoken.append(talker_inputs(model.talker, bos, rows, speech.codes))
    return [context.thinker, cache]


def talker_inputs(
    talker: Talker, voice: int, rows: list[FloatArray], codes: list[int]
) -> FloatArray:
    """Return what the Talker read to say `codes` for the rows of a reply, (codes + 1, input_size).

    `voice` is the text token that begins the speech.
    """
    config = talker.config
    tail = [talker.text(config.text_eos), *[talker.text(config.text_pad)] * len(codes)]
    inputs = [
        talker.text(voice) + talker.codec(config.codec_pad),
        rows[0] + talker.codec(config.codec_bos),
        *(
            talker.codec(code) + row
            for code, row in zip(codes[:-1], [*rows[1:], *tail], strict=False)
        ),
    ]
    return np.stack(inputs)


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


def messages(calibration: str) -> list[list[ContentPart]]:
    """Return at most `MESSAGES` user messages of a text, from all its parts."""
    found = MESSAGE.findall(calibration)
    step = max(1, len(found) // MESSAGES)
    return [[Text(message)] for message in found[::step][:MESSAGES]]


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
    observed = replies(Path(sys.argv[1]), Path(sys.argv[2]).read_text("utf-8"))
    stacked: dict[str, Any] = {name: np.stack(found) for name, found in observed.absmax.items()}
    stacked[TALKER_ROWS] = observed.talker_rows
    np.savez(sys.argv[3], **stacked)
