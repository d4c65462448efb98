"""Interrupted exports: finished artifacts are verified and reused, in bounded memory."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import Twin
from omni_export import exporter, graph_files, own_replies, random_checkpoint
from omni_export.exporter import ExportRequest, export
from omni_export.hub import LocalCheckpoint
from omni_export.progress import Progress
from omni_export.random_shapes import DecoderShape, Shape
from omni_quantize.recipe import load
from omni_runtime.atomic_folder import StagedFolder
from omni_runtime.bundle.manifest import Measured
from omni_runtime.bundle.store import Bundle
from omni_runtime.cli.main import main
from omni_runtime.cli.show import describe
from omni_runtime.errors import OmniError, UsageError

RUN = Path(__file__).parents[2] / "export" / "run.py"


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter.smoke_test, "first_reply", lambda bundle: None)
    monkeypatch.setattr(own_replies, "observe", own_replies.replies)
    monkeypatch.setattr(own_replies, "MAX_CODES", 72)


class Export:
    """Runs exports, records what was reused and written, and can be killed at a part."""

    def __init__(self, checkpoint: Path, destination: Path, recipe: str = "int4") -> None:
        source = LocalCheckpoint(checkpoint, "random", "test")
        self.request = ExportRequest(source, load(recipe), "avx2", destination)

    def run(self, stop_at: str = "") -> None:
        self.kept: list[str] = []
        self.written: list[str] = []
        self.last: Progress | None = None

        def report(progress: Progress) -> None:
            self.last = progress
            if progress.part == stop_at and progress.step:
                raise KeyboardInterrupt
            names = self.kept if progress.kept else self.written
            if progress.step and progress.part not in names:
                names.append(progress.part)

        export(self.request, report)


@pytest.mark.slow
def test_finished_parts_are_reused(default_twin: Twin, tmp_path: Path) -> None:
    run = Export(default_twin.folder, tmp_path / "bundle")
    with pytest.raises(KeyboardInterrupt):
        run.run(stop_at="talker")
    hidden = StagedFolder(tmp_path / "bundle").folder
    assert [path.name for path in tmp_path.iterdir()] == [hidden.name]
    assert not list(hidden.rglob("manifest.json"))
    (hidden / "new" / "graphs" / "stray").write_text("of a part that was cut")
    before = run.written[:]
    run.run()
    assert run.kept == before and "thinker" in run.kept
    assert run.written == ["talker", "dit", "vocoder", "own replies", "int8 cache", "first reply"]
    assert run.last is not None and run.last.step == run.last.steps == len(run.kept) + 6
    assert run.last.done == run.last.total
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    bundle = Bundle(tmp_path / "bundle")
    assert all(unchanged for _, unchanged in bundle.verify())
    other = Export(default_twin.folder, tmp_path / "at once")
    other.run()
    assert not other.kept
    assert bundle.manifest.files == Bundle(tmp_path / "at once").manifest.files


def test_a_full_disk_keeps_finished_parts(
    default_twin: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = graph_files.external_data.save

    def full(model, folder: Path, *more, **options) -> Path:
        if folder.name == "talker":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(model, folder, *more, **options)

    run = Export(default_twin.folder, tmp_path / "bundle")
    with monkeypatch.context() as disk:
        disk.setattr(graph_files.external_data, "save", full)
        with pytest.raises(
            OmniError, match=r"No space left on device, [\d.]+ GiB are free"
        ) as told:
            run.run()
    hidden = StagedFolder(tmp_path / "bundle").folder
    kept = f"7 finished artifacts are kept in {hidden} for the same command"
    assert told.value.__notes__ == [kept]
    left = {path.name for path in hidden.iterdir()} - {exporter.LOCK}
    assert left == {"artifacts", "new", "pocket-omni-staging", "request"}
    run.run()
    assert len(run.kept) == 7 and run.written[:1] == ["talker"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.slow
def test_a_failed_smoke_test_keeps_all_parts(
    default_twin: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(bundle: Path) -> None:
        raise OmniError("the new bundle does not run: no message")

    run = Export(default_twin.folder, tmp_path / "bundle")
    with monkeypatch.context() as trial:
        trial.setattr(exporter.smoke_test, "first_reply", killed)
        with pytest.raises(OmniError, match="does not run") as told:
            run.run()
    assert "10 finished artifacts are kept" in told.value.__notes__[0]
    run.run()
    assert run.written == ["own replies", "int8 cache", "first reply"]


def test_a_destination_in_the_checkpoint_is_no_part_of_it(
    default_twin: Twin, tmp_path: Path
) -> None:
    folder = shutil.copytree(default_twin.folder, tmp_path / "checkpoint")
    destination = folder / "bundles" / "mine"
    checkpoint = LocalCheckpoint(folder, "mine", "test")
    request = exporter.ExportRequest(checkpoint, load("fp32"), "avx2", destination)
    before = request.key()
    for part in (destination, StagedFolder(destination).folder):
        part.mkdir(parents=True)
        (part / "file").write_text("new")
    assert request.key() == before
    (folder / "file").write_text("new")
    assert request.key() != before


def test_two_exports_to_one_destination(default_twin: Twin, tmp_path: Path) -> None:
    first, second = (Export(default_twin.folder, tmp_path / "bundle") for _ in range(2))
    told: list[str] = []

    def both(progress: Progress) -> None:
        if progress.part == "talker" and not told:
            with pytest.raises(UsageError) as refused:
                second.run()
            told.append(str(refused.value))

    export(first.request, both)
    assert told == [
        f"another export to {tmp_path / 'bundle'} is running "
        "(wait for it, or give another --output)"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert all(unchanged for _, unchanged in Bundle(tmp_path / "bundle").verify())


def test_a_changed_byte_is_detected(default_twin: Twin, tmp_path: Path) -> None:
    run = Export(default_twin.folder, tmp_path / "bundle")
    with pytest.raises(KeyboardInterrupt):
        run.run(stop_at="dit")
    hidden = StagedFolder(tmp_path / "bundle").folder
    spoilt = hidden / "new" / "graphs" / "thinker" / "model.onnx.data"
    data = bytearray(spoilt.read_bytes())
    data[len(data) // 2] ^= 1
    spoilt.write_bytes(data)
    (hidden / "artifacts" / "audio_encoder.json").write_text("{")
    run.run()
    assert {"vision_encoder", "talker"} < set(run.kept)
    assert run.written[:4] == ["audio_encoder", "thinker", "dit", "vocoder"]
    assert all(unchanged for _, unchanged in Bundle(tmp_path / "bundle").verify())


@pytest.mark.parametrize("change", ["recipe", "target", "revision", "weights", "exporter"])
def test_another_request_reuses_nothing(
    default_twin: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    random_checkpoint.describe(tmp_path / "checkpoint")
    run = Export(tmp_path / "checkpoint", tmp_path / "bundle")
    with pytest.raises(KeyboardInterrupt):
        run.run(stop_at="audio_encoder")
    if change == "recipe":
        run.request = replace(run.request, recipe=load("int8"))
    elif change == "target":
        run.request = replace(run.request, target="arm64")
    elif change == "revision":
        other = replace(run.request.checkpoint, revision="another")
        run.request = replace(run.request, checkpoint=other)
    elif change == "weights":
        path = tmp_path / "checkpoint" / "random_weights.json"
        path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    else:
        monkeypatch.setattr(exporter, "_version", lambda: "another")
    with pytest.raises(KeyboardInterrupt):
        run.run(stop_at="vision_encoder")
    assert not run.kept


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no such signal")
def test_a_killed_process_is_resumed(default_twin: Twin, tmp_path: Path) -> None:
    destination = tmp_path / "bundle"
    command = [sys.executable, str(RUN), "--model", str(default_twin.folder), "--quant", "int8"]
    command += ["--output", str(destination)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if re.match(r"\[\d+/\d+\] talker · ", line):  # reached: all before it are finished
                running.send_signal(signal.SIGKILL)
                break
        running.communicate(timeout=60)
    assert not destination.exists()
    assert not list(tmp_path.rglob("manifest.json"))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "thinker · reused" in done.stderr
    assert all(unchanged for _, unchanged in Bundle(destination).verify())
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_no_smoke_test_without_enough_memory(
    default_twin: Twin,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(exporter.smoke_test.machine, "available_memory", lambda: 2**28)
    words = ["export", "--model", str(default_twin.folder), "--output", str(tmp_path / "bundle")]
    assert main(words) == 0
    manifest = Bundle(tmp_path / "bundle").manifest
    assert manifest.measured is None and manifest.not_measured is not None
    assert "256.0 MB were free" in manifest.not_measured
    assert f"measured  no: {manifest.not_measured}" in describe(manifest)
    printed = capsys.readouterr().out
    assert f"not measured: {manifest.not_measured}\n" in printed
    assert "no int8 KV cache, and no fit to own speech" in printed


def test_a_first_reply_without_text_leaves_a_bundle_that_can_be_read(
    default_twin: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published shapes have more ids than the tokenizer of a random checkpoint knows."""
    silent = Measured(
        machine="a",
        onnxruntime="1",
        threads=1,
        peak_memory=1,
        load=0.0,
        first_text=None,
        first_audio=1.0,
        realtime_factor=1.0,
    )
    monkeypatch.setattr(exporter.smoke_test, "first_reply", lambda bundle: silent)
    Export(default_twin.folder, tmp_path / "bundle").run()
    manifest = Bundle(tmp_path / "bundle").manifest
    assert manifest.measured == silent
    assert "first text none, first audio 1.00 s" in describe(manifest)


MEASURE = """
import sys
from pathlib import Path
from omni_export import exporter
from omni_export.hub import LocalCheckpoint
from omni_quantize.recipe import load
from omni_runtime import machine

exporter.smoke_test.first_reply = lambda bundle: None
folder, destination, report = Path(sys.argv[1]), Path(sys.argv[2]), []
source = LocalCheckpoint(folder, "random", "test")
request = exporter.ExportRequest(source, load("int4"), "avx2", destination)
exporter.export(request, lambda progress: report.append(machine.peak_memory()))
print(machine.peak_memory() - report[0])
"""


@pytest.mark.slow
def test_memory_is_bounded_by_slices_not_by_the_model(tmp_path: Path) -> None:
    """Twice the layers need hardly more memory, and far less than the size of the model."""
    grown: list[int] = []
    sizes: list[int] = []
    for layers in (5, 11):
        shape = Shape(thinker=DecoderShape(layers, 1024, 8, 2, 128, 4096, (16, 24, 24)))
        folder = tmp_path / f"checkpoint-{layers}"
        random_checkpoint.describe(folder, shape)
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(folder), str(tmp_path / f"bundle-{layers}")],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert done.returncode == 0, done.stderr
        grown.append(int(done.stdout))
        entry = Bundle(tmp_path / f"bundle-{layers}").manifest.graphs["thinker"]
        assert entry.error is not None
        assert entry.error.of == "products"
        assert 0.98 < entry.error.cosine < 1
        sizes.append(entry.fp32_bytes)
    assert sizes[1] - sizes[0] > 300 * 2**20
    assert grown[1] - grown[0] < 60 * 2**20, grown
    assert grown[1] < sizes[1] / 2, (grown, sizes)
