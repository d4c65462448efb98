"""Echo in a simulated room: the session's own voice never starts a turn with cancellation."""

import importlib.util
from collections.abc import Callable

import numpy as np
import pytest
import soxr

from omni_runtime.conversation import Conversation
from omni_runtime.events import AudioDelta
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, SpeechOptions
from omni_runtime.voice.echo import EchoCanceller
from omni_runtime.voice.turn_detector import TurnDetector, TurnOptions, TurnStarted
from omni_runtime.voice.vad import FRAME, SAMPLE_RATE, VoiceActivity

installed = pytest.mark.skipif(
    importlib.util.find_spec("livekit") is None, reason='needs pip install "pocket-omni[aec]"'
)


@pytest.fixture(scope="module")
def reply(trained: Model) -> np.ndarray:
    """The model's own voice, 16 kHz, again and again for 20 s."""
    pieces = [
        event.samples
        for question in ("Who are you?", "Count from one to ten.")
        for event in Conversation(trained).send(question, ReplyOptions(SpeechOptions()))
        if isinstance(event, AudioDelta)
    ]
    once = soxr.resample(np.concatenate(pieces), 24_000, SAMPLE_RATE).astype(np.float32)
    pause = np.zeros(SAMPLE_RATE // 2, np.float32)
    return np.resize(np.concatenate([once, pause]), 20 * SAMPLE_RATE)


def room(samples: np.ndarray, delay: float) -> np.ndarray:
    """A loudspeaker that distorts, a delay, and a decaying room, with some noise."""
    random = np.random.default_rng(0)
    tail = np.exp(-np.arange(3200) / 500) * random.normal(0, 1, 3200)
    tail[0] = 3.0
    driven = np.tanh(1.5 * samples) / 1.5
    echo = np.convolve(driven, tail / np.abs(tail).sum() * 2)[: len(samples)]
    shift = round(delay * SAMPLE_RATE)
    late = np.concatenate([np.zeros(shift), echo])[: len(samples)]
    return (late + random.normal(0, 0.0005, len(samples))).astype(np.float32)


def starts(samples: np.ndarray) -> int:
    """Interruptions that the detector would see while a reply is played."""
    detector, vad = TurnDetector(TurnOptions()), VoiceActivity()
    whole = samples[: len(samples) // FRAME * FRAME]
    return sum(
        isinstance(event, TurnStarted)
        for probability in vad.probabilities(whole)
        for event in detector.push(float(probability), start=detector.options.interrupt)
    )


def cancelled(microphone: np.ndarray, reference: np.ndarray) -> np.ndarray:
    canceller = EchoCanceller.load()
    pieces = [
        canceller.process(microphone[i : i + 320], reference[i : i + 320])
        for i in range(0, len(microphone), 320)
    ]
    return np.concatenate(pieces)


@installed
@pytest.mark.parametrize("delay", [0.04, 0.15])
def test_its_own_voice_starts_no_turn(reply: np.ndarray, delay: float) -> None:
    echo = room(reply, delay)
    assert starts(echo) >= 2, "without cancellation it interrupts itself"
    cleaned = cancelled(echo, reply)
    converged = 4 * SAMPLE_RATE
    assert starts(cleaned[converged:]) == 0
    power = np.mean(echo[converged:] ** 2) / max(np.mean(cleaned[converged:] ** 2), 1e-12)
    assert 10 * np.log10(power) > 25


@installed
def test_a_user_is_heard_above_the_reply(
    reply: np.ndarray, recording: Callable[[str], np.ndarray]
) -> None:
    microphone = room(reply, 0.04)
    user = recording("seven_plus_five")
    at = 12 * SAMPLE_RATE
    microphone[at : at + len(user)] += user
    cleaned = cancelled(microphone, reply)
    assert starts(cleaned[4 * SAMPLE_RATE : at]) == 0 < starts(cleaned[at : at + len(user)])
