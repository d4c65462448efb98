"""Turns from speech probabilities: starts, pauses, ends, backchannels. No audio."""

import numpy as np
import pytest

from omni_runtime.voice.turn_detector import (
    TurnDetector,
    TurnEnded,
    TurnEvent,
    TurnOptions,
    TurnPaused,
    TurnResumed,
    TurnStarted,
)
from omni_runtime.voice.vad import FRAME, FRAME_SECONDS, SAMPLE_RATE, VoiceActivity


def frames(*stretches: tuple[float, float]) -> list[float]:
    """Probabilities from (probability, seconds)."""
    return [p for p, seconds in stretches for _ in range(round(seconds / FRAME_SECONDS))]


def run(probabilities: list[float], **options: float) -> list[tuple[int, TurnEvent]]:
    detector = TurnDetector(TurnOptions(**options))
    return [(n, e) for n, p in enumerate(probabilities, 1) for e in detector.push(p)]


def kinds(found: list[tuple[int, TurnEvent]]) -> list[type]:
    return [type(event) for _, event in found]


def test_a_turn_with_a_pause() -> None:
    found = run(frames((0, 1), (0.9, 1), (0.1, 0.3), (0.9, 0.5), (0, 1)))
    assert kinds(found) == [TurnStarted, TurnPaused, TurnResumed, TurnPaused, TurnEnded]
    (at, started), *_, (ended_at, ended) = found
    assert isinstance(started, TurnStarted) and started.frame == round(1 / FRAME_SECONDS)
    assert (at - started.frame) * FRAME_SECONDS == pytest.approx(0.1, abs=0.04)
    assert isinstance(ended, TurnEnded)
    assert (ended_at - ended.frame) * FRAME_SECONDS == pytest.approx(0.5, abs=0.04)
    assert ended.frame * FRAME_SECONDS == pytest.approx(2.8, abs=0.1)


def test_the_limit_of_a_pause_is_the_users() -> None:
    broken = frames((0.9, 1), (0, 0.9), (0.9, 1), (0, 2))
    assert kinds(run(broken)).count(TurnEnded) == 2
    assert kinds(run(broken, end_silence=1.0)).count(TurnEnded) == 1


def test_clicks_and_doubts_begin_nothing() -> None:
    assert run(frames((0.9, 0.064), (0, 0.5), (0.9, 0.064), (0, 1))) == []
    assert run(frames((0.45, 3))) == []
    # A voice that has begun may sink below the threshold, by the hysteresis.
    assert kinds(run(frames((0.9, 0.5), (0.4, 1), (0.2, 1)))) == [
        TurnStarted,
        TurnPaused,
        TurnEnded,
    ]


def test_a_backchannel_is_shorter_than_an_interruption() -> None:
    detector = TurnDetector(TurnOptions())
    needed = detector.options.interrupt
    humming = [e for p in frames((0.9, 0.22), (0, 1)) for e in detector.push(p, start=needed)]
    assert humming == []
    speaking = [e for p in frames((0.9, 0.3)) for e in detector.push(p, start=needed)]
    assert kinds([(0, e) for e in speaking]) == [TurnStarted]


def test_silero_hears_a_voice(recording) -> None:
    """On a recorded question: silence around it, a voice inside, in pieces or at once."""
    silence = np.zeros(SAMPLE_RATE // FRAME * FRAME, np.float32)
    spoken = recording("seven_plus_five")
    spoken = spoken[: len(spoken) // FRAME * FRAME]
    samples = np.concatenate([silence, spoken, silence])
    whole = VoiceActivity().probabilities(samples)
    piece = VoiceActivity()
    pieces = np.concatenate(
        [piece.probabilities(samples[i : i + FRAME]) for i in range(0, len(samples), FRAME)]
    )
    assert np.allclose(whole, pieces, atol=1e-5)
    quiet = len(silence) // FRAME
    assert whole[:quiet].max() < 0.2 and whole[-quiet // 2 :].max() < 0.2
    assert (whole[quiet:-quiet] > 0.5).mean() > 0.5
    noise = np.random.default_rng(0).normal(0, 0.05, 50 * FRAME).astype(np.float32)
    assert VoiceActivity().probabilities(noise).max() < 0.5
