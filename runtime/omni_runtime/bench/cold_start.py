"""Benchmarks that need a new process: cold start and peak memory.

"Cold" means a new process, with its interpreter, imports and graphs. The page cache of the system
is not dropped.

Run as a module, this file is the new process. It prints its peak memory in bytes.
"""

import os
import sys
from collections.abc import Iterator
from typing import cast

from omni_runtime.bench.replies import ask, prompts
from omni_runtime.bench.rows import BenchCase, Quantity, duration
from omni_runtime.bundle.contracts import CacheType
from omni_runtime.child_process import run_module
from omni_runtime.engine.session import SessionOptions
from omni_runtime.machine import peak_memory
from omni_runtime.model import Model


def open_everything(model: Model) -> None:
    """Open every graph and table that a conversation may use."""
    config = model.config
    _ = model.prompts, model.thinker
    if config.audio is not None:
        _ = model.audio_encoder
    if config.vision is not None:
        _ = model.vision_encoder
    if config.speech is not None:
        _ = model.talker, model.vocoder, model.dit(config.speech.default_preset)


def load(model: Model) -> Iterator[BenchCase]:
    """Load time until the bundle is ready for a prompt."""
    yield duration(
        "load, cold",
        lambda: _child(model, answer=False),
        "a new process with its imports; the page cache is not dropped",
    )
    yield duration(
        "load, warm",
        lambda: open_everything(Model(model.bundle.folder, model.options)),
        "all graphs opened again in this process",
    )


def memory(model: Model) -> Iterator[BenchCase]:
    """Peak memory of a process that opens everything and replies."""
    names = " and ".join(name for name, _ in prompts(model))
    quantity = Quantity("peak memory", "MiB", False, f"all graphs open, replies to {names}")
    yield BenchCase((quantity,), lambda: [_child(model, answer=True) / 2**20])


def _child(model: Model, *, answer: bool) -> int:
    """Run a new process to its end. Return its peak memory in bytes."""
    options = model.options
    arguments = [
        *(str(model.bundle.folder), str(options.resolved_threads()), str(int(options.native))),
        *(str(int(options.prepack_cache)), options.kv_cache, str(int(answer))),
    ]
    printed = run_module(
        __name__,
        arguments,
        failure="the bundle cannot be run in a new process",
        fix="open the bundle in this process to see the error",
        code="benchmark_process",
    )
    return int(printed)


def main(
    folder: str, threads: str, native: str, prepack_cache: str, cache: str, answer: str
) -> None:
    """Open everything, reply if `answer` is "1", and print the peak memory in bytes."""
    settings = SessionOptions(
        int(threads),
        native=native == "1",
        prepack_cache=prepack_cache == "1",
        kv_cache=cast("CacheType", cache),
    )
    model = Model(folder, settings)
    open_everything(model)
    if answer == "1":
        for _, parts in prompts(model):
            ask(model, parts)
    sys.stdout.write(f"{peak_memory()}\n")
    # The parent measures until the exit, so skip the teardown of the interpreter.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
