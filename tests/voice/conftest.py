"""Recorded questions, and the trained default."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from omni_runtime.engine.session import SessionOptions
from omni_runtime.inputs.media import load_audio
from omni_runtime.model import Model
from omni_runtime.serving.engine import Engine
from omni_runtime.voice.playback import Playback
from omni_runtime.voice.session import VoiceSession
from voice.talks import REPLY, Talk

ROOT = Path(__file__).parent.parent.parent


@cache
def _recording(name: str) -> np.ndarray:
    return load_audio(ROOT / "tests" / "data" / f"{name}.flac", 16_000)


@pytest.fixture
def recording() -> Callable[[str], np.ndarray]:
    """A spoken question, float32 mono at 16 kHz, by its name."""
    return _recording


@pytest.fixture(scope="session")
def trained(trained_bundle: Path) -> Model:
    return Model(trained_bundle, SessionOptions(threads=1))


@pytest.fixture
def start(trained: Model) -> Iterator[Callable[..., Talk]]:
    with Engine(trained) as engine:

        def make(context: int | None = None, **options) -> Talk:
            playback = Playback(trained.speech.vocoder.sample_rate)
            talk = Talk(None, playback)  # type: ignore[arg-type]
            talk.session = VoiceSession(
                engine.open(context=context), talk.emit, reply=REPLY, **options
            )
            return talk

        yield make
