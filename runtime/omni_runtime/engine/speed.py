"""Speech speed of this machine, and which preset it can play in real time.

Each component is timed briefly on arbitrary inputs, since time does not depend on values. One DiT
evaluation gives the cost of every preset, because presets differ only in the number of function
evaluations (NFE).
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
"""Real-time factor a preset must reach to be chosen; the trial is short and leaves out the text."""
TRIAL_CODES, TRIAL_BLOCKS, TRIES = 8, 2, 2
"""The first try also warms up, so the fastest one counts."""


@dataclass(frozen=True)
class SynthesisSpeed:
    """Seconds of work per second of speech: codes, one DiT evaluation, vocoder."""

    codes: float
    evaluation: float
    vocoder: float

    def realtime(self, nfe: int) -> float:
        """Seconds of speech per second of work with `nfe` function evaluations."""
        return 1 / (self.codes + nfe * self.evaluation + self.vocoder)

    def affordable(self, nfe: Mapping[str, int]) -> str:
        """Return the preset with the most evaluations that runs in real time.

        `nfe` maps presets to their function evaluations. If none is fast enough, return the one
        with the fewest.
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
    """Time each component. `dit` may be of any preset, `voice` (2, hidden) of any speaker."""
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
    # A large chunk also computes a block of look-ahead, and the vocoder context on both sides.
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
