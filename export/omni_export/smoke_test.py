"""Smoke test: the first reply of a new bundle, in a new process, with its time and memory.

A reply needs more memory than the export, since ONNX Runtime keeps a prepacked copy of most
weights. If the machine has too little memory, the test is skipped and the manifest says why.
"""

import json
import subprocess
from pathlib import Path

import onnxruntime

from omni_runtime import machine
from omni_runtime.bundle.manifest import Manifest, Measured
from omni_runtime.child_process import run_module
from omni_runtime.cli.common import format_size
from omni_runtime.memory import MIN_CONTEXT, Footprint

PROMPT = "Hello! Who are you, and what can you do?"
MAX_TOKENS = 48
MAX_SPEECH = 10
TIMEOUT = 1800
"""Seconds."""


def obstacle(manifest: Manifest) -> str | None:
    """Return why the test cannot run on this machine now, or None if it can."""
    speech = manifest.model.speech is not None
    needed = Footprint.of(manifest).needed(MIN_CONTEXT, speech=speech)
    free = machine.available_memory()
    if needed <= free:
        return None
    return f"a reply may need {format_size(needed)} of memory, {format_size(free)} were free"


def attempt(bundle: Path, manifest: Manifest) -> tuple[Measured | None, str | None]:
    """Return the measurements of a first reply, or why there are none. Raises as `first_reply`."""
    if reason := obstacle(manifest):
        return None, reason
    try:
        return first_reply(bundle), None
    except subprocess.TimeoutExpired:
        return None, f"there was no reply within {TIMEOUT} s"


def first_reply(bundle: Path) -> Measured:
    """Run one prompt with `omni run`. Return its time and memory.

    Raises OmniError if the reply fails; such a bundle must not be published.
    """
    limits = ["--max-tokens", str(MAX_TOKENS), "--max-speech", str(MAX_SPEECH)]
    arguments = ["run", str(bundle), PROMPT, "--json", "--no-play", "--no-prepack-cache", *limits]
    failure, fix = "the new bundle does not run", "report this as a defect"
    printed = run_module(
        "omni_runtime.cli.main", arguments, failure=failure, fix=fix, timeout=TIMEOUT
    )
    turn = json.loads(printed.splitlines()[-1])
    return Measured(
        machine=machine.describe(),
        onnxruntime=onnxruntime.__version__,
        threads=turn["threads"],
        peak_memory=turn["peak_memory"],
        load=turn["load"],
        first_text=turn["first_text"],
        first_audio=turn["first_audio"],
        realtime_factor=turn["realtime"],
    )
