"""Benchmarks of each part of the model.

Inputs are random and of fixed size, since the time does not depend on the values. Each function
yields the cases of one benchmark, with inputs prepared before the first run.
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
"""Side of each square image, in pixels."""
CODES = 128
COMMIT_BLOCKS, LOOK_AHEAD_BLOCKS = 8, 1
"""A chunk of speech in the steady state: DiT blocks that are final, and look-ahead blocks."""
UTTERANCE_BLOCKS = 12
MEL_MEAN, MEL_DEVIATION = -5.0, 2.0


class ThinkerRunner:
    """Runs the Thinker on random text tokens. Methods return the time in seconds."""

    def __init__(self, model: Model) -> None:
        self._thinker = model.thinker
        self._random = np.random.default_rng(0)

    @cached_property
    def _cache(self) -> KVCache:
        return self._thinker.new_cache()

    def prefill(self, count: int, depth: int = 0) -> float:
        """Prefill `count` tokens at once after `depth` tokens."""
        self._set_length(depth)
        prompt = self._prompt(count, depth)
        return seconds(lambda: self._thinker.prefill(self._cache, prompt))

    def decode(self, count: int, depth: int = 0) -> float:
        """Decode `count` tokens one by one, with logits, after `depth` tokens."""
        self._set_length(depth)
        tokens = self._prompt(count, depth).ids.tolist()

        def steps() -> None:
            for index, token in enumerate(tokens):
                self._thinker.step(self._cache, token, depth + index)

        return seconds(steps)

    def _set_length(self, depth: int) -> None:
        """Truncate or extend the cache to `depth` tokens."""
        self._cache.truncate(min(depth, self._cache.length))
        if missing := depth - self._cache.length:
            self._thinker.prefill(self._cache, self._prompt(missing, self._cache.length))

    def _prompt(self, count: int, start: int) -> Prompt:
        ids = self._random.integers(0, self._thinker.config.decoder.vocab_size, count)
        positions = np.tile(np.arange(start, start + count, dtype=np.int64), (3, 1))
        return Prompt(ids, positions, [], start + count)


def depths(limit: int, count: int) -> list[tuple[int, int, str]]:
    """Return (tokens, depth, note) for depth 0 and for `DEPTH`, within a context of `limit`."""
    count = min(count, limit)
    deep = min(DEPTH, limit - count)
    note = "" if deep == DEPTH else f"context length {limit}"
    return [(count, 0, "")] + ([(count, deep, note)] if deep else [])


def at_depth(name: str, count: int, depth: int) -> str:
    """Return the name of a test as in llama-bench: pp512, tg128 @ d2048."""
    return f"{name}{count}" + (f" @ d{depth}" if depth else "")


def prefill(model: Model) -> Iterator[BenchCase]:
    """Prefill speed."""
    runner = ThinkerRunner(model)
    for count, depth, note in depths(model.config.thinker.decoder.max_context, PROMPT):
        quantity = Quantity(at_depth("pp", count, depth), "tok/s", True, note)
        yield BenchCase((quantity,), lambda n=count, d=depth: [n / runner.prefill(n, d)])


def decode(model: Model) -> Iterator[BenchCase]:
    """Decode speed, without sampling."""
    runner = ThinkerRunner(model)
    for count, depth, note in depths(model.config.thinker.decoder.max_context, STEPS):
        quantity = Quantity(at_depth("tg", count, depth), "tok/s", True, note)
        yield BenchCase((quantity,), lambda n=count, d=depth: [n / runner.decode(n, d)])


def mel_of_audio(model: Model) -> MelFeatures:
    """Return the log-mel features of `AUDIO_SECONDS` of noise."""
    config = model.config.audio
    assert config is not None
    count = AUDIO_SECONDS * config.sample_rate
    return log_mel(np.random.default_rng(0).standard_normal(count, np.float32), config)


def audio(model: Model) -> Iterator[BenchCase]:
    """Time of the audio encoder."""
    mel = mel_of_audio(model)
    note = f"{audio_tokens(mel.frames)} tokens"
    name = f"audio encoder {AUDIO_SECONDS} s"
    yield duration(name, lambda: model.audio_encoder.encode(mel), note)


def patches_of_image(model: Model, side: int) -> Patches:
    """Return the patches of a square image of noise, `side` pixels wide."""
    config = model.config.vision
    assert config is not None
    return image_patches(
        np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8), config
    )


def image(model: Model) -> Iterator[BenchCase]:
    """Time of the vision encoder."""
    for name, side in IMAGES.items():
        patches = patches_of_image(model, side)
        yield duration(
            f"image {name}",
            lambda patches=patches: model.vision_encoder.encode(patches),
            image_note(model, patches),
        )


def image_note(model: Model, patches: Patches) -> str:
    """Return the size of an image after preprocessing, and its number of tokens."""
    config = model.config.vision
    assert config is not None
    t, h, w = patches.grid
    size = f"{w * config.patch_size}x{h * config.patch_size}"
    return f"resized to {size}, {t * h * w // config.merge_size**2} tokens"


def talker(model: Model) -> Iterator[BenchCase]:
    """Decode speed of the Talker with its own sampling. An end code does not stop it."""
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

    note = f"{count} codes; {model.codes_per_second:.0f} codes/s is real time"
    yield rate("talker", "codes/s", count, decode_codes, note)


def random_codes(speech: SpeechConfig, blocks: int) -> IntArray:
    """Return random codes for `blocks` DiT blocks, int64 (n,)."""
    count = blocks * speech.dit.block_frames // speech.dit.frames_per_code
    return np.random.default_rng(0).integers(1, speech.dit.codes, count)


def frame_seconds(speech: SpeechConfig) -> float:
    """Return the seconds of speech in one mel frame."""
    return speech.vocoder.samples_per_frame / speech.vocoder.sample_rate


def voice(model: Model) -> FloatArray:
    """Return the default voice, float32 (2, hidden)."""
    return np.asarray(model.bundle.voice(model.speech.default_voice), np.float32)


def dit_evaluation(model: Model) -> BenchCase:
    """Time of one guided DiT evaluation of a chunk, per second of mel."""
    speech = model.speech
    dit = model.dit(speech.default_preset).single(guidance=0.5)
    blocks = COMMIT_BLOCKS + LOOK_AHEAD_BLOCKS
    codes, noise = random_codes(speech, blocks), seeded_noise(0, speech.dit)
    length = blocks * speech.dit.block_frames * frame_seconds(speech)
    return duration(
        "DiT, 1 evaluation",
        lambda: MelStream(dit, voice(model), noise).chunk(codes, blocks),
        f"with guidance, {length:.2f} s at once",
        unit="s/s",
        per=length,
    )


def dit(model: Model) -> Iterator[BenchCase]:
    """Time of one DiT evaluation, and of the complete solver for each preset."""
    yield dit_evaluation(model)
    speech = model.speech
    codes = random_codes(speech, COMMIT_BLOCKS + LOOK_AHEAD_BLOCKS)
    length = COMMIT_BLOCKS * speech.dit.block_frames * frame_seconds(speech)
    for name in speech.presets:
        part = model.dit(name)

        def chunk(part: Dit = part) -> None:
            stream = MelStream(part, voice(model), seeded_noise(0, speech.dit))
            stream.chunk(codes, COMMIT_BLOCKS)

        note = (
            f"{part.evaluations} evaluations, {sum(part.branches)} passes; {LOOK_AHEAD_BLOCKS} of "
        )
        note += f"{COMMIT_BLOCKS + LOOK_AHEAD_BLOCKS} blocks is look-ahead"
        yield duration(f"DiT, {name}", chunk, note, unit="s/s", per=length)


def random_mel(speech: SpeechConfig, frames: int) -> FloatArray:
    """Return noise at the level of speech, float32 (frames, mel_dim)."""
    noise = np.random.default_rng(0).standard_normal((frames, speech.dit.mel_dim), np.float32)
    return noise * np.float32(MEL_DEVIATION) + np.float32(MEL_MEAN)


def vocoder(model: Model) -> Iterator[BenchCase]:
    """Time of the vocoder on a chunk with context on both sides, per second of speech."""
    speech = model.speech
    frames, block = COMMIT_BLOCKS * speech.dit.block_frames, speech.dit.block_frames
    mel = random_mel(speech, 2 * frames + LOOK_AHEAD_BLOCKS * block)
    before, chunk, ahead = np.split(mel, [frames, 2 * frames])

    def run() -> list[float]:
        stream = WaveStream(model.vocoder, speech.dit.mel_dim)
        stream.push(before, chunk, last=False)
        spent = seconds(lambda: stream.push(chunk, ahead, last=False))
        return [spent / (frames * frame_seconds(speech))]

    note = f"{frames} frames at once; the context is recomputed"
    yield BenchCase((Quantity("vocoder", "s/s", False, note),), run)


def code2wav(model: Model) -> Iterator[BenchCase]:
    """Speed from codes to audio, chunk by chunk, for each preset."""
    speech = model.speech
    codes = random_codes(speech, UTTERANCE_BLOCKS).tolist()
    for name in speech.presets:

        def synthesize(name: str = name) -> None:
            stream = model.code2wav(speech.default_voice, name, seeded_noise(0, speech.dit))
            for code in codes:
                stream.push(code)
            stream.finish()

        note = f"{len(codes)} codes; {model.codes_per_second:.0f} codes/s is real time"
        yield rate(f"code2wav, {name}", "codes/s", len(codes), synthesize, note)
