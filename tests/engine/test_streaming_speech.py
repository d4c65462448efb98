"""Streamed speech against one-shot speech: chunks of the DiT, windows of the vocoder."""

import numpy as np
import pytest
import torch

from conftest import Twin, relative
from omni_runtime.engine import code2wav
from omni_runtime.engine.chunk_scheduler import (
    FIRST_LOOK_AHEAD_CODES,
    ChunkScheduler,
    FixedScheduler,
)
from omni_runtime.engine.dit import MelStream, seeded_noise
from omni_runtime.engine.vocoder import Vocoder, WaveStream

CODES = 96
BLOCK = 12


def some_codes(twin: Twin, count: int = CODES) -> np.ndarray:
    return np.random.default_rng(8).integers(0, twin.model.speech.dit.codes - 1, count)


def mel_in_chunks(
    twin: Twin, preset: str, commit: int, ahead: int, count: int = CODES
) -> np.ndarray:
    """Return the mel of `count` codes, in chunks of `commit` blocks with `ahead` look-ahead."""
    model = twin.model
    noise = seeded_noise(3, model.speech.dit)
    stream = MelStream(model.dit(preset), model.bundle.voice("Ethan"), noise)
    codes, pieces = some_codes(twin, count), []
    for start in range(0, count, commit * BLOCK):
        visible = codes[start : start + (commit + ahead) * BLOCK]
        pieces.append(stream.chunk(visible, min(commit, -(-len(visible) // BLOCK))).mel)
    return np.concatenate(pieces)


def mel_with_recomputed_left(twin: Twin, preset: str, left: int, ahead: int) -> np.ndarray:
    """Recompute each block with `left` blocks before it, as engines without a cache do."""
    model = twin.model
    noise = seeded_noise(3, model.speech.dit)
    codes, pieces = some_codes(twin), []
    for block in range(CODES // BLOCK):
        first = max(0, block - left)
        stream = MelStream(
            model.dit(preset),
            model.bundle.voice("Ethan"),
            lambda _, count, first=first: noise(first, count),
        )
        visible = codes[first * BLOCK : (block + 1 + ahead) * BLOCK]
        mel = stream.chunk(visible, -(-len(visible) // BLOCK)).mel
        pieces.append(mel[(block - first) * 24 : (block - first + 1) * 24])
    return np.concatenate(pieces)


@pytest.mark.parametrize("preset", ["faithful", "balanced", "fast"])
@pytest.mark.parametrize("count", [96, 31])
def test_whole_look_ahead_equals_one_shot(default_twin: Twin, preset: str, count: int) -> None:
    whole = mel_in_chunks(default_twin, preset, commit=8, ahead=0, count=count)
    for commit in (1, 3):
        assert relative(mel_in_chunks(default_twin, preset, commit, 8, count), whole) < 1e-4


def test_one_shot_equals_reference(default_twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = seeded_noise(3, default_twin.model.speech.dit)(0, CODES // BLOCK)
    monkeypatch.setattr(torch, "randn", lambda *a, **k: torch.from_numpy(noise)[None])
    voice = default_twin.reference.speaker_map["Ethan"]
    wanted = default_twin.reference.token2wav.code2wav_dit_model.sample(
        voice["cond"], voice["ref_mel"], torch.from_numpy(some_codes(default_twin))[None]
    )
    found = mel_in_chunks(default_twin, "faithful", commit=8, ahead=0)
    assert relative(found.T[None], wanted) < 1e-4


def test_cached_left_context_is_no_worse_than_recomputing(twin: Twin) -> None:
    """One block of look-ahead: mean distance to the one-shot result, cached and recomputed."""
    whole = mel_in_chunks(twin, "balanced", commit=8, ahead=0)
    cached = np.abs(mel_in_chunks(twin, "balanced", 1, 1) - whole).mean()
    recomputed = np.abs(mel_with_recomputed_left(twin, "balanced", 2, 1) - whole).mean()
    # Where one block to the left is all a layer stack can see, both are exact there and equal.
    assert cached <= recomputed * 1.01


def test_noise_depends_only_on_the_frame(default_twin: Twin) -> None:
    noise = seeded_noise(7, default_twin.model.speech.dit)
    assert np.array_equal(noise(0, 5)[48:96], noise(2, 2))
    assert not np.array_equal(noise(0, 1), seeded_noise(8, default_twin.model.speech.dit)(0, 1))
    values = noise(0, 50)
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1) < 0.02


def test_a_missing_frame_of_context_is_detected(twin: Twin) -> None:
    """The full context is exact, and a shorter context is not."""
    vocoder = twin.model.vocoder
    mel = (np.random.default_rng(4).standard_normal((150, 80)) * 2 - 5).astype(np.float32)
    whole = vocoder.synthesize(mel, 0, 0)
    frames, context = vocoder.config.samples_per_frame, vocoder.config.context_frames
    middle = whole[70 * frames : 80 * frames]

    def windowed(side: int) -> float:
        window = vocoder.synthesize(mel[70 - side : 80 + side], side, side)
        return float(np.abs(window - middle).max() / np.abs(middle).max())

    assert windowed(context) < 1e-4
    assert windowed(2) > 1e-3


def test_no_clicks_between_chunks(default_twin: Twin) -> None:
    """The wave has no jump even if the look-ahead differs from the final mel."""
    vocoder: Vocoder = default_twin.model.vocoder
    random = np.random.default_rng(4)
    mel = (random.standard_normal((96, 80)) * 0.3 - 5).astype(np.float32)
    stream, pieces = WaveStream(vocoder, 80), []
    for start in range(0, 96, 24):
        guess = mel[start + 24 : start + 48]
        guess = guess + random.standard_normal(guess.shape).astype(np.float32) * 0.3
        pieces.append(stream.push(mel[start : start + 24], guess, last=start == 72))
    wave = np.concatenate(pieces)
    assert len(wave) == 96 * 240
    steps = np.abs(np.diff(wave))
    at_seams = max(steps[edge - 1] for edge in (24 * 240, 48 * 240, 72 * 240))
    assert at_seams <= np.quantile(steps, 0.999)


def test_state_does_not_grow_with_the_utterance(default_twin: Twin) -> None:
    model = default_twin.model
    sound = model.code2wav("Ethan", "fast", seeded_noise(0, model.speech.dit))

    def held() -> int:
        left = sum(a.nbytes + b.nbytes for a, b in sound._mel._left)
        return left + sound._wave._context.nbytes + sound._wave._seam.nbytes + len(sound._codes)

    sizes = []
    for code in some_codes(default_twin, 1200):
        if sound.push(int(code)) is not None:
            sizes.append(held())
    assert len(sizes) > 8
    assert max(sizes[4:]) == sizes[4]


def test_chunks_grow_from_the_smallest(default_twin: Twin) -> None:
    model = default_twin.model
    sound = model.code2wav("Ethan", "fast", seeded_noise(0, model.speech.dit))
    ready: list[tuple[int, int]] = []
    for number, code in enumerate(some_codes(default_twin, 200), 1):
        samples = sound.push(int(code))
        if samples is not None:
            ready.append((number, len(samples) // 480))
    assert ready[0] == (24, 12), "12 codes of sound after 12 more of look-ahead"
    assert [codes for _, codes in ready][:3] == [12, 24, 48]
    rest = sound.finish()
    assert rest is not None
    assert sum(codes for _, codes in ready) + len(rest) // 480 == 200
    assert code2wav.LOOK_AHEAD_BLOCKS == 1


def test_the_first_block_does_not_wait_for_all_look_ahead(default_twin: Twin) -> None:
    model, codes = default_twin.model, some_codes(default_twin, 200)
    pieces: dict[str, list[tuple[int, np.ndarray]]] = {}
    for name in ("adaptive", "fixed"):
        scheduler = model.chunk_scheduler(name, lambda: 0.0)
        sound = model.code2wav("Ethan", "fast", seeded_noise(0, model.speech.dit), scheduler)
        heard = [(number, sound.push(int(code))) for number, code in enumerate(codes, 1)]
        pieces[name] = [(number, piece) for number, piece in heard if piece is not None]
    early, late = pieces["adaptive"][0], pieces["fixed"][0]
    assert (early[0], late[0]) == (12 + FIRST_LOOK_AHEAD_CODES, 24)
    assert len(early[1]) == len(late[1])
    assert relative(early[1], late[1]) < 0.3  # random weights look ahead as they look back
    assert pieces["adaptive"][1][0] == pieces["fixed"][1][0] == 48


class Script(FixedScheduler):
    """A scheduler with given chunk sizes that holds the audio until the last chunk."""

    def __init__(self, sizes: tuple[int, ...], held: int) -> None:
        super().__init__(sizes)
        self._hold = held

    def chunk_done(self, blocks: int, seconds: float) -> bool:
        super().chunk_done(blocks, seconds)
        self._hold -= 1
        return self._hold < 0


def spoken(twin: Twin, scheduler: ChunkScheduler, count: int = 200) -> list[np.ndarray]:
    """Return the chunks of audio of `count` codes."""
    model = twin.model
    sound = model.code2wav("Ethan", "fast", seeded_noise(0, model.speech.dit), scheduler)
    pieces = [sound.push(int(code)) for code in some_codes(twin, count)]
    return [piece for piece in [*pieces, sound.finish()] if piece is not None]


def test_held_audio_is_unchanged(default_twin: Twin) -> None:
    at_once = spoken(default_twin, FixedScheduler((1, 2, 3)))
    held = spoken(default_twin, Script((1, 2, 3), held=3))
    assert len(held) == len(at_once) - 3
    assert np.array_equal(np.concatenate(held), np.concatenate(at_once))


def test_a_chunk_does_not_depend_on_its_time(default_twin: Twin) -> None:
    """Codes after the look-ahead that were decoded meanwhile do not change it."""

    class Late(FixedScheduler):
        def commit(self, ready: int, missing: int) -> int:
            return super().commit(ready, missing) if missing == 5 else 0

    on_time, late = spoken(default_twin, FixedScheduler((2,))), spoken(default_twin, Late((2,)))
    assert len(on_time) == len(late)
    assert all(np.array_equal(a, b) for a, b in zip(on_time, late, strict=True))


def test_adaptive_chunks_on_an_infinitely_fast_machine(default_twin: Twin) -> None:
    """No audio is held, chunk sizes double, and no underrun is reported."""
    scheduler = default_twin.model.chunk_scheduler("adaptive", lambda: 0.0)
    codes = [len(piece) // 480 for piece in spoken(default_twin, scheduler, 700)]
    assert codes == [12, 24, 48, 96, 192, 192, 136]
    assert scheduler.underrun is None
