"""The first reply of a new bundle, in a process of its own: does it work, and what does it take?

The export itself is bounded in memory, a reply is not: ONNX Runtime keeps a second copy of most
weights, as its kernels want them. Where that does not fit no reply is tried, and the bundle says
so.
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
SECONDS_ALLOWED = 1800


def obstacle(manifest: Manifest) -> str | None:
    """Why no reply can be tried on this machine now; None when there is room for one."""
    speech = manifest.model.speech is not None
    needed = Footprint.of(manifest).needed(MIN_CONTEXT, speech=speech)
    free = machine.available_memory()
    if needed <= free:
        return None
    return f"a reply may need {format_size(needed)} of memory, {format_size(free)} were free"


def attempt(bundle: Path, manifest: Manifest) -> tuple[Measured | None, str | None]:
    """What a first reply takes, or why there is none. Raises OmniError as `first_reply` does."""
    if reason := obstacle(manifest):
        return None, reason
    try:
        return first_reply(bundle), None
    except subprocess.TimeoutExpired:
        return None, f"there was no reply within {SECONDS_ALLOWED} s"


def first_reply(bundle: Path) -> Measured:
    """Ask the bundle a question through the command line's own door.

    Raises OmniError when it does not answer: such a bundle must not be handed out.
    """
    limits = ["--max-tokens", str(MAX_TOKENS), "--max-speech", str(MAX_SPEECH)]
    arguments = ["run", str(bundle), PROMPT, "--json", "--no-play", "--no-prepack-cache", *limits]
    failure, fix = "the new bundle does not run", "report this as a defect"
    printed = run_module(
        "omni_runtime.cli.main", arguments, failure=failure, fix=fix, timeout=SECONDS_ALLOWED
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
