"""How fast this machine makes speech with this bundle, and which preset that allows.

A trial runs each part for a moment, on nothing in particular: time does not depend on values. From
one pass of the DiT follows what every preset takes, since they differ in the number of nfe
alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from omni_runtime.arrays import FloatArray
from omni_runtime.engine.chunk_scheduler import CHUNK_BLOCKS
from omni_runtime.engine.dit import Dit, MelStream, seeded_noise
from omni_runtime.engine.talker import Talker, TalkerSettings, own_sampling
from omni_runtime.engine.vocoder import Vocoder

REALTIME_MARGIN = 1.2
"""Real time that a preset must reach to be chosen: the trial is short, and text takes time, too."""
TRIAL_CODES, TRIAL_BLOCKS, TRIES = 8, 2, 2
"""The first try also warms up, so the best one counts."""


@dataclass(frozen=True)
class SynthesisSpeed:
    """Seconds of work for a second of speech once it flows: its codes, one pass, the vocoder."""

    codes: float
    evaluation: float
    vocoder: float

    def realtime(self, nfe: int) -> float:
        """Seconds of speech for a second of work with so many nfe of the DiT."""
        return 1 / (self.codes + nfe * self.evaluation + self.vocoder)

    def affordable(self, nfe: Mapping[str, int]) -> str:
        """Of presets with their nfe, the one with most that keeps ahead of a listener.

        Where none does, the one with least.
        """
        from_most = sorted(nfe, key=lambda name: -nfe[name])
        ample = (name for name in from_most if self.realtime(nfe[name]) >= REALTIME_MARGIN)
        return next(ample, from_most[-1])


def trial(
    talker: Talker,
    dit: Dit,
    vocoder: Vocoder,
    voice: FloatArray,
    clock: Callable[[], float] = perf_counter,
) -> SynthesisSpeed:
    """Measure each part. `dit` is of any preset, `voice` (2, hidden) of any speaker."""
    config, full = dit.config, CHUNK_BLOCKS[-1]
    frame = vocoder.config.samples_per_frame / vocoder.config.sample_rate
    frames = TRIAL_BLOCKS * config.block_frames
    codes = np.ones(frames // config.frames_per_code, np.int64)
    once, noise = dit.single(guidance=1.0), seeded_noise(0, config)
    mel = np.zeros((frames, config.mel_dim), np.float32)

    def best(act: Callable[[], object]) -> float:
        spent: list[float] = []
        for _ in range(TRIES):
            started = clock()
            act()
            spent.append(clock() - started)
        return min(spent)

    decoding = best(lambda: _decode(talker, TRIAL_CODES))
    guided = best(lambda: MelStream(once, voice, noise).chunk(codes, TRIAL_BLOCKS))
    sounding = best(lambda: vocoder.synthesize(mel, 0, 0))
    # A large chunk computes a block of look-ahead, and the vocoder its context on both sides.
    ahead, context = 1 / full, 2 * vocoder.config.context_frames / (full * config.block_frames)
    return SynthesisSpeed(
        codes=decoding / (TRIAL_CODES * config.frames_per_code * frame),
        evaluation=guided / 2 / (frames * frame) * (1 + ahead),
        vocoder=sounding / (frames * frame) * (1 + context),
    )


def _decode(talker: Talker, count: int) -> None:
    config, cache = talker.config, talker.new_cache()
    sampling = own_sampling(config)
    settings = TalkerSettings(sampling, count, np.random.default_rng(0))
    row = talker.text(config.text_pad) + talker.codec(config.codec_bos)
    for position in range(count):
        talker.sample_code(talker.logits(cache, row[None], position), {config.codec_bos}, settings)
