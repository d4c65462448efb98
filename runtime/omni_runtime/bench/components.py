"""Each part of the model alone: what is timed, and on how much.

Inputs are random and of fixed size: time does not depend on values. Every function makes the
cases of one benchmark, its inputs ready before the first run.
"""

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from omni_runtime.arrays import FloatArray, IntArray
from omni_runtime.bench.rows import BenchCase, Quantity, duration, rate, seconds
from omni_runtime.bundle.config import SpeechConfig
from omni_runtime.engine.dit import Dit, MelStream, seeded_noise
from omni_runtime.engine.kv_cache import KVCache
from omni_runtime.engine.talker import TalkerSettings, own_sampling
from omni_runtime.engine.vocoder import WaveStream
from omni_runtime.inputs.mel import audio_tokens
from omni_runtime.inputs.mel_features import MelFeatures, log_mel
from omni_runtime.inputs.pixels import Patches, image_patches
from omni_runtime.inputs.prompt import Prompt
from omni_runtime.model import Model

PROMPT, STEPS, DEPTH = 512, 128, 2048
AUDIO_SECONDS = 30
IMAGES = {"448x448": 448, "1 MP": 1024}
"""Sides of the square pictures, in pixels."""
CODES = 128
COMMIT_BLOCKS, AHEAD_BLOCKS = 8, 1
"""One chunk of speech once it flows: what is made for good, and what is looked ahead."""
UTTERANCE_BLOCKS = 12
MEL_MEAN, MEL_DEVIATION = -5.0, 2.0


class ThinkerRunner:
    """The Thinker as an engine of text alone. Both cases give the seconds they took."""

    def __init__(self, model: Model) -> None:
        self._thinker = model.thinker
        self._random = np.random.default_rng(0)

    @cached_property
    def _cache(self) -> KVCache:
        return self._thinker.new_cache()

    def prefill(self, count: int, depth: int = 0) -> float:
        """Read `count` tokens at once behind `depth` others."""
        self._to(depth)
        prompt = self._prompt(count, depth)
        return seconds(lambda: self._thinker.prefill(self._cache, prompt))

    def decode(self, count: int, depth: int = 0) -> float:
        """Read `count` tokens one by one, with the logits of each, behind `depth` others."""
        self._to(depth)
        tokens = self._prompt(count, depth).ids.tolist()

        def steps() -> None:
            for index, token in enumerate(tokens):
                self._thinker.step(self._cache, token, depth + index)

        return seconds(steps)

    def _to(self, depth: int) -> None:
        """Make the cache `depth` tokens long."""
        self._cache.truncate(min(depth, self._cache.length))
        if missing := depth - self._cache.length:
            self._thinker.prefill(self._cache, self._prompt(missing, self._cache.length))

    def _prompt(self, count: int, start: int) -> Prompt:
        ids = self._random.integers(0, self._thinker.config.decoder.vocab_size, count)
        positions = np.tile(np.arange(start, start + count, dtype=np.int64), (3, 1))
        return Prompt(ids, positions, [], start + count)


def depths(limit: int, count: int) -> list[tuple[int, int, str]]:
    """(tokens, depth, note) for depth 0 and the deep one, as far as a context of `limit` goes."""
    count = min(count, limit)
    deep = min(DEPTH, limit - count)
    note = "" if deep == DEPTH else f"context ends at {limit}"
    return [(count, 0, "")] + ([(count, deep, note)] if deep else [])


def at_depth(name: str, count: int, depth: int) -> str:
    """llama-bench's name of a test: pp512, tg128 @ d2048."""
    return f"{name}{count}" + (f" @ d{depth}" if depth else "")


def prefill(model: Model) -> Iterator[BenchCase]:
    """Reading a prompt."""
    runner = ThinkerRunner(model)
    for count, depth, note in depths(model.config.thinker.decoder.max_context, PROMPT):
        quantity = Quantity(at_depth("pp", count, depth), "tok/s", True, note)
        yield BenchCase((quantity,), lambda n=count, d=depth: [n / runner.prefill(n, d)])


def decode(model: Model) -> Iterator[BenchCase]:
    """Writing text, token by token, without sampling."""
    runner = ThinkerRunner(model)
    for count, depth, note in depths(model.config.thinker.decoder.max_context, STEPS):
        quantity = Quantity(at_depth("tg", count, depth), "tok/s", True, note)
        yield BenchCase((quantity,), lambda n=count, d=depth: [n / runner.decode(n, d)])


def mel_of_audio(model: Model) -> MelFeatures:
    """Log-mel of `AUDIO_SECONDS` of noise."""
    config = model.config.audio
    assert config is not None
    count = AUDIO_SECONDS * config.sample_rate
    return log_mel(np.random.default_rng(0).standard_normal(count, np.float32), config)


def audio(model: Model) -> Iterator[BenchCase]:
    """The audio encoder."""
    mel = mel_of_audio(model)
    note = f"{audio_tokens(mel.frames)} tokens"
    name = f"audio encoder {AUDIO_SECONDS} s"
    yield duration(name, lambda: model.audio_encoder.encode(mel), note)


def patches_of_image(model: Model, side: int) -> Patches:
    """A square picture of noise, as the bundle's own preprocessor makes it."""
    config = model.config.vision
    assert config is not None
    return image_patches(
        np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8), config
    )


def image(model: Model) -> Iterator[BenchCase]:
    """The vision encoder."""
    for name, side in IMAGES.items():
        patches = patches_of_image(model, side)
        yield duration(
            f"image {name}",
            lambda patches=patches: model.vision_encoder.encode(patches),
            image_note(model, patches),
        )


def image_note(model: Model, patches: Patches) -> str:
    """What became of a picture: its size after the preprocessor, and its tokens."""
    config = model.config.vision
    assert config is not None
    t, h, w = patches.grid
    size = f"{w * config.patch_size}x{h * config.patch_size}"
    return f"seen as {size}, {t * h * w // config.merge_size**2} tokens"


def talker(model: Model) -> Iterator[BenchCase]:
    """Decoding codes, each sampled with the Talker's own sampling. An end code does not end it."""
    part, config = model.talker, model.speech.talker
    sampling = own_sampling(config)
    cache = part.new_cache()
    count = min(CODES, cache.limit)

    def decode_codes() -> None:
        cache.truncate(0)
        settings = TalkerSettings(sampling, count, np.random.default_rng(0))
        code, seen = config.codec_bos, {config.codec_bos}
        row = part.text(config.text_pad)
        for position in range(count):
            logits = part.logits(cache, (part.codec(code) + row)[None], position)
            code = part.sample_code(logits, seen, settings)
            seen.add(code)

    note = f"{count} codes; {model.codes_per_second:.0f} make a second"
    yield rate("talker", "codes/s", count, decode_codes, note)


def some_codes(speech: SpeechConfig, blocks: int) -> IntArray:
    """Random codes of whole DiT blocks, int64 (n,)."""
    count = blocks * speech.dit.block_frames // speech.dit.frames_per_code
    return np.random.default_rng(0).integers(1, speech.dit.codes, count)


def frame_seconds(speech: SpeechConfig) -> float:
    """Seconds of speech in one mel frame."""
    return speech.vocoder.samples_per_frame / speech.vocoder.sample_rate


def voice(model: Model) -> FloatArray:
    """The default voice, (2, hidden)."""
    return np.asarray(model.bundle.voice(model.speech.default_voice), np.float32)


def dit_evaluation(model: Model) -> BenchCase:
    """One evaluation with guidance over a whole chunk, for each second of mel computed."""
    speech = model.speech
    dit = model.dit(speech.default_preset).single(guidance=0.5)
    blocks = COMMIT_BLOCKS + AHEAD_BLOCKS
    codes, noise = some_codes(speech, blocks), seeded_noise(0, speech.dit)
    own = blocks * speech.dit.block_frames * frame_seconds(speech)
    return duration(
        "DiT, 1 evaluation",
        lambda: MelStream(dit, voice(model), noise).chunk(codes, blocks),
        f"with guidance, {own:.2f} s at once",
        unit="s/s",
        per=own,
    )


def dit(model: Model) -> Iterator[BenchCase]:
    """One evaluation, and the whole way from noise to mel for each preset."""
    yield dit_evaluation(model)
    speech = model.speech
    codes = some_codes(speech, COMMIT_BLOCKS + AHEAD_BLOCKS)
    made = COMMIT_BLOCKS * speech.dit.block_frames * frame_seconds(speech)
    for name in speech.presets:
        part = model.dit(name)

        def chunk(part: Dit = part) -> None:
            stream = MelStream(part, voice(model), seeded_noise(0, speech.dit))
            stream.chunk(codes, COMMIT_BLOCKS)

        note = f"{part.evaluations} evaluations, {sum(part.branches)} passes; {AHEAD_BLOCKS} of "
        note += f"{COMMIT_BLOCKS + AHEAD_BLOCKS} blocks is look-ahead"
        yield duration(f"DiT, {name}", chunk, note, unit="s/s", per=made)


def some_mel(speech: SpeechConfig, frames: int) -> FloatArray:
    """Noise about as loud as speech, (frames, mel_dim)."""
    noise = np.random.default_rng(0).standard_normal((frames, speech.dit.mel_dim), np.float32)
    return noise * np.float32(MEL_DEVIATION) + np.float32(MEL_MEAN)


def vocoder(model: Model) -> Iterator[BenchCase]:
    """A chunk in the middle of an utterance, with the context on both sides."""
    speech = model.speech
    frames, block = COMMIT_BLOCKS * speech.dit.block_frames, speech.dit.block_frames
    mel = some_mel(speech, 2 * frames + AHEAD_BLOCKS * block)
    before, chunk, ahead = np.split(mel, [frames, 2 * frames])

    def run() -> list[float]:
        stream = WaveStream(model.vocoder, speech.dit.mel_dim)
        stream.push(before, chunk, last=False)
        spent = seconds(lambda: stream.push(chunk, ahead, last=False))
        return [spent / (frames * frame_seconds(speech))]

    note = f"{frames} frames at once, context is recomputed"
    yield BenchCase((Quantity("vocoder", "s/s", False, note),), run)


def code2wav(model: Model) -> Iterator[BenchCase]:
    """A whole utterance from codes to sound, chunk by chunk, for each preset."""
    speech = model.speech
    codes = some_codes(speech, UTTERANCE_BLOCKS).tolist()
    for name in speech.presets:

        def speak(name: str = name) -> None:
            sound = model.code2wav(speech.default_voice, name, seeded_noise(0, speech.dit))
            for code in codes:
                sound.push(code)
            sound.finish()

        note = f"{len(codes)} codes; {model.codes_per_second:.0f} codes/s is real time"
        yield rate(f"code2wav, {name}", "codes/s", len(codes), speak, note)
