"""Tiny random checkpoints of several shapes, their bundles and their reference models."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

from desk import Desk, sound_server
from omni_export import exporter, own_replies
from omni_export.hub import LocalCheckpoint
from omni_export.random_checkpoint import write
from omni_export.random_shapes import DEFAULT, DecoderShape, Shape
from omni_quantize.dynamic import resolve_target
from omni_quantize.recipe import load
from omni_runtime.engine.session import SessionOptions
from omni_runtime.model import Model

torch.set_grad_enabled(False)
torch.set_num_threads(1)  # small tensors: a second thread only waits for the first

TRAINED = Path(__file__).parent.parent / "tiny" / "checkpoint"
SHAPES = {
    # grouped heads 4:2, head_dim 32, three layers
    "default": DEFAULT,
    # one KV head, head_dim 16, uneven sections, odd layers, DiT layers that look both ways
    "narrow": Shape(
        thinker=DecoderShape(5, 64, 4, 1, 16, 96, (2, 3, 3)),
        talker=DecoderShape(3, 48, 3, 1, 16, 80, (4, 2, 2)),
        audio={"layers": 1, "width": 32, "heads": 2, "inner": 48},
        vision={"layers": 4, "width": 32, "heads": 2, "inner": 40, "full": [3]},
        talkative=False,
        dit={"layers": 5, "width": 32, "heads": 1, "head_dim": 16, "ahead": [2], "back": [0, 2, 4]},
        vocoder={"channels": 64, "kernels": [3, 7, 11], "dilations": [[1, 3, 5]] * 3},
    ),
    # the proportions of the published models: head_dim 128 and 64, sections 16/24/24 and 16/16/0
    "wide": Shape(
        thinker=DecoderShape(2, 256, 2, 1, 128, 192, (16, 24, 24)),
        talker=DecoderShape(3, 128, 2, 2, 64, 160, (16, 16, 0)),
        audio={"layers": 3, "width": 128, "heads": 2, "inner": 96},
        vision={"layers": 2, "width": 160, "heads": 2, "inner": 60, "full": [0, 1]},
        dit={"layers": 3, "width": 64, "heads": 2, "head_dim": 64, "ahead": [1], "back": [0]},
        vocoder={"channels": 128, "kernels": [3], "dilations": [[1, 3, 5]]},
    ),
}


@dataclass
class Twin:
    """One checkpoint: its reference model and its bundle."""

    folder: Path
    bundle: Path

    @cached_property
    def reference(self) -> Any:
        from transformers import Qwen2_5OmniForConditionalGeneration  # noqa: PLC0415

        return Qwen2_5OmniForConditionalGeneration.from_pretrained(self.folder).eval()

    @cached_property
    def processor(self) -> Any:
        from transformers import AutoTokenizer, WhisperFeatureExtractor  # noqa: PLC0415

        return AutoTokenizer.from_pretrained(self.folder), WhisperFeatureExtractor.from_pretrained(
            self.folder
        )

    @cached_property
    def model(self) -> Model:
        return Model(self.bundle, SessionOptions(threads=1))


def export_to(
    checkpoint: Path | LocalCheckpoint,
    destination: Path,
    recipe: str = "fp32",
    calibration: str = "",
    codes: int = 72,
) -> Path:
    """Export without further processes and a trial reply, which the tests of the command cover.

    `codes` is the length of the replies that the bundle makes for itself.
    """
    if isinstance(checkpoint, Path):
        checkpoint = LocalCheckpoint(checkpoint, checkpoint.name, "test")
    original = exporter.smoke_test.first_reply, own_replies.observe, own_replies.MAX_CODES
    exporter.smoke_test.first_reply = lambda bundle: None  # type: ignore[assignment]
    own_replies.observe, own_replies.MAX_CODES = own_replies.replies, codes
    try:
        exporter.export(
            exporter.ExportRequest(
                checkpoint,
                load(recipe),
                resolve_target("native"),
                destination,
                calibration,
            ),
            lambda progress: None,
        )
    finally:
        exporter.smoke_test.first_reply, own_replies.observe, own_replies.MAX_CODES = original
    return destination


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], Any]], Path]:
    """Make a folder by its name, once for all processes of a run; tests must not change it."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if os.environ.get("PYTEST_XDIST_WORKER") else root

    def make(name: str, write_to: Callable[[Path], Any]) -> Path:
        with FileLock(root / f"{name}.lock"):
            if not (root / name).exists():
                write_to(root / name)
        return root / name

    return make


@pytest.fixture(scope="session")
def make_twin(once: Callable[..., Path]) -> Callable[[str], Twin]:
    made: dict[str, Twin] = {}

    def make(name: str) -> Twin:
        if name not in made:
            seed = len(name)
            folder = once(f"{name}-checkpoint", lambda path: write(path, SHAPES[name], seed=seed))
            made[name] = Twin(folder, once(f"{name}-fp32", lambda path: export_to(folder, path)))
        return made[name]

    return make


@pytest.fixture(scope="session")
def export_default(
    once: Callable[..., Path], make_twin: Callable[[str], Twin]
) -> Callable[[str], Path]:
    """Export the twin of the default shape by a recipe."""

    def export(recipe: str) -> Path:
        checkpoint = make_twin("default").folder
        return once(f"default-{recipe}", lambda path: export_to(checkpoint, path, recipe))

    return export


@pytest.fixture(params=list(SHAPES))
def twin(request: pytest.FixtureRequest, make_twin: Callable[[str], Twin]) -> Twin:
    """Twin of each shape."""
    return make_twin(request.param)


@pytest.fixture
def default_twin(make_twin: Callable[[str], Twin]) -> Twin:
    """Twin of the default shape."""
    return make_twin("default")


@pytest.fixture(scope="session")
def export_trained(once: Callable[..., Path]) -> Callable[[str], Path]:
    """Export the trained default by a recipe."""
    return lambda recipe: once(f"trained-{recipe}", lambda path: export_to(TRAINED, path, recipe))


@pytest.fixture(scope="session")
def trained_bundle(export_trained: Callable[[str], Path]) -> Path:
    """Bundle of the trained default, float32."""
    return export_trained("fp32")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A sound server with a microphone and a loudspeaker that tests use."""
    with sound_server(tmp_path) as found:
        yield found


def relative(found: Any, wanted: Any) -> float:
    """Return the largest difference, relative to the largest expected value."""
    a, b = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert a.shape == b.shape, (a.shape, b.shape)
    return float(np.abs(a - b).max() / np.abs(b).max())
