"""What only a process of its own can tell: a cold start, and the most memory a reply takes.

Cold means that the process is new: its interpreter, its imports, its graphs. The system may still
hold the bundle's files in memory from before; nothing here empties that.

Run as a module this file is that process; it prints its peak memory in bytes.
"""

import os
import sys
from collections.abc import Iterator
from typing import cast

from omni_runtime.bench.replies import ask, questions
from omni_runtime.bench.rows import BenchCase, Quantity, duration
from omni_runtime.bundle.contracts import CacheType
from omni_runtime.child_process import run_module
from omni_runtime.engine.session import SessionOptions
from omni_runtime.machine import peak_memory
from omni_runtime.model import Model


def open_everything(model: Model) -> None:
    """Open every graph and table that a conversation could need."""
    config = model.config
    _ = model.prompts, model.thinker
    if config.audio is not None:
        _ = model.audio_encoder
    if config.vision is not None:
        _ = model.vision_encoder
    if config.speech is not None:
        _ = model.talker, model.vocoder, model.dit(config.speech.default_preset)


def load(model: Model) -> Iterator[BenchCase]:
    """From nothing to ready for a question."""
    yield duration(
        "load, cold",
        lambda: _child(model, answer=False),
        "a new process with its imports; the page cache is not dropped",
    )
    yield duration(
        "load, warm",
        lambda: open_everything(Model(model.bundle.folder, model.options)),
        "everything opened again in this process",
    )


def memory(model: Model) -> Iterator[BenchCase]:
    """The largest resident set of a process that opened everything and answered."""
    asked = " and ".join(name for name, _ in questions(model))
    quantity = Quantity("peak memory", "MiB", False, f"everything open, replies to {asked}")
    yield BenchCase((quantity,), lambda: [_child(model, answer=True) / 2**20])


def _child(model: Model, *, answer: bool) -> int:
    """Start a new process and wait for it; its peak memory in bytes."""
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
    """Open everything, answer if asked to, print the peak memory in bytes."""
    settings = SessionOptions(
        int(threads),
        native=native == "1",
        prepack_cache=prepack_cache == "1",
        kv_cache=cast("CacheType", cache),
    )
    model = Model(folder, settings)
    open_everything(model)
    if answer == "1":
        for _, parts in questions(model):
            ask(model, parts)
    sys.stdout.write(f"{peak_memory()}\n")
    # The parent waits for the end: what the interpreter would tear down is no part of the start.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
