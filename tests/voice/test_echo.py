"""Echo in a simulated room: the session's own voice never starts a turn with cancellation."""

import importlib.util
from collections.abc import Callable

import numpy as np
import pytest
import soxr
from tiny.room import Monologue, Room

from omni_runtime.conversation import Conversation
from omni_runtime.events import AudioDelta
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, SpeechOptions
from omni_runtime.serving.engine import Engine
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
    return Room(delay).hear(samples)


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


@pytest.mark.parametrize("cancel_echo", [pytest.param(True, marks=installed), False])
def test_a_monologue_is_not_interrupted_by_its_echo(trained: Model, cancel_echo: bool) -> None:
    """With cancellation, and half duplex without it; from the first reply on."""
    with Engine(trained) as engine:
        talk = Monologue(engine, ["Who are you?"], delay=0.15, cancel_echo=cancel_echo)
        assert talk.run(12).keys() == {"replies", "ms of speech"}


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
