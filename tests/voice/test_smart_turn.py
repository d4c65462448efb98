"""Smart Turn: the features are the reference's, and whole sentences end a turn at once."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from transformers import WhisperFeatureExtractor

from omni_runtime import machine
from omni_runtime.errors import OmniError
from omni_runtime.inputs.media import load_audio
from omni_runtime.voice import smart_turn
from omni_runtime.voice.smart_turn import SmartTurn
from omni_runtime.voice.turn_detector import TurnOptions
from voice.talks import ONE_TURN, RATE, silence


@pytest.mark.parametrize("seconds", [0.5, 8.0, 11.0])
def test_features_are_those_of_transformers(recording, seconds: float) -> None:
    samples = np.resize(recording("seven_plus_five"), round(seconds * RATE))
    padded = np.pad(samples[-8 * RATE :], (max(0, 8 * RATE - len(samples)), 0))
    reference = WhisperFeatureExtractor(chunk_length=8)
    wanted = reference(padded, sampling_rate=RATE, do_normalize=True, return_tensors="np")
    assert np.abs(smart_turn.features(samples) - wanted.input_features[0]).max() < 1e-4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SmartTurn:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smart_turn, "cache_folder", lambda: folder)
        with pytest.raises(OmniError, match="has not been downloaded"):
            SmartTurn()
        path = smart_turn.download()
        assert "BSD 2-Clause" in path.with_name("LICENSE").read_text()
        path.chmod(0o600)
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + b"\0")
        with pytest.raises(OmniError, match="damaged"):
            SmartTurn()
        path.write_bytes(whole)
        assert smart_turn.download() == path, "not downloaded twice"
        return SmartTurn()


def test_a_download_that_fails(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(smart_turn, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(smart_turn, "PACKAGE", "pocket-omni-has-no-such-package==1")
    with pytest.raises(OmniError, match="could not be downloaded") as failed:
        smart_turn.download()
    assert failed.value.code == "download_failed"
    assert machine.cache_folder() != tmp_path and not list((tmp_path / "smart-turn").iterdir())


@pytest.fixture(scope="module")
def reader() -> np.ndarray:
    """A person reads the first lines of a novel; 16 kHz."""
    pytest.importorskip("moonshine_voice")
    folder = Path(str(files("moonshine_voice")))
    return load_audio(next(folder.rglob("two_cities.wav")), RATE)


def test_ends_of_sentences_and_of_phrases(model: SmartTurn, recording, reader) -> None:
    for name in ("seven_plus_five", "color_of_the_sky"):
        assert model.complete(np.concatenate([recording(name), silence(0.2)]))
    assert model.complete(reader[: round(28.54 * RATE)])
    for comma in (6.50, 15.04, 20.74, 29.89):
        assert not model.complete(reader[: round(comma * RATE)])


def test_it_ends_a_turn_at_the_first_pause(start, recording, model: SmartTurn) -> None:
    options = TurnOptions(end_silence=2.0)
    talk = start(turns=options, smart_turn=model)
    spoken = recording("seven_plus_five")
    talk.hear(silence(0.6), spoken, silence(4))
    assert talk.states == ONE_TURN and talk.replies == ["Seven plus five is twelve."]
    (figures,) = talk.figures
    silent = figures.voice_to_sound - figures.decided_to_sound
    assert silent == pytest.approx(options.pause, abs=0.04), "not after 2 s"


def test_an_unfinished_sentence_waits(start, recording, model: SmartTurn, monkeypatch) -> None:
    spoken = recording("seven_plus_five")
    half = round(1.15 * RATE)
    verdicts = iter([False, True])
    monkeypatch.setattr(SmartTurn, "complete", lambda *_: next(verdicts))
    talk = start(turns=TurnOptions(end_silence=2.0), smart_turn=model)
    talk.hear(silence(0.6), spoken[:half], silence(1.4), spoken[half:], silence(4))
    assert talk.states == ONE_TURN and talk.figures[0].heard_seconds > 3
