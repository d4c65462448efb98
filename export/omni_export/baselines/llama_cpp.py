"""Baseline llama.cpp: prefill and decode of a decoder of the Thinker's shape."""

import importlib
import importlib.metadata
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np

from omni_export.baselines import gguf_file
from omni_runtime.bench.components import DEPTH, PROMPT, STEPS, ThinkerRunner, at_depth, depths
from omni_runtime.bench.rows import Comparison, ProgressCallback, Quantity, seconds
from omni_runtime.errors import OmniError
from omni_runtime.model import Model

EXTRA_CONTEXT = 160
"""Context after the longest prompt, for tokens that a server generates."""
SAFE_IDS = 500
"""Token ids below this exist in every vocabulary. Speed does not depend on the ids."""


class TextEngine(Protocol):
    """Prefill and decode. Both return the time in seconds, without preparation.

    `name` is the engine and its version, `detail` the model.
    """

    name: str
    detail: str

    def prefill(self, count: int, depth: int = 0) -> float:
        """Prefill `count` tokens at once after `depth` tokens."""
        ...

    def decode(self, count: int, depth: int = 0) -> float:
        """Decode `count` tokens one by one after `depth` tokens."""
        ...


@contextmanager
def comparisons(
    model: Model, names: Sequence[str], gguf: Path | None, progress: ProgressCallback
) -> Generator[tuple[str, Iterator[Comparison]]]:
    """Compare with llama.cpp on `gguf`, or on a temporary file of the Thinker's shape.

    Raises OmniError without llama.cpp, without the package gguf, or for an unusable file.
    """
    llama_package()
    config = model.config.thinker.decoder
    context = min(DEPTH + PROMPT, config.max_context) + EXTRA_CONTEXT
    with TemporaryDirectory(prefix="omni-bench-") as folder:
        if gguf is None:
            progress("writing a GGUF of the same shape, Q4_K_M, random weights")
            gguf = Path(folder) / "same-shape-Q4_K_M.gguf"
            gguf_file.write(gguf, config, gguf_file.inner_size(model.bundle.manifest), context)
        engine = llama(gguf, context, model.options.resolved_threads())
        yield f"{engine.name}, {engine.detail}", text_comparisons(model, engine, names)


def text_comparisons(
    model: Model, engine: TextEngine, names: Sequence[str]
) -> Iterator[Comparison]:
    """Yield prefill and decode at each depth, if `names` has "pp" and "tg"."""
    ours, limit = ThinkerRunner(model), model.config.thinker.decoder.max_context
    cases = {
        "pp": (PROMPT, ours.prefill, engine.prefill),
        "tg": (STEPS, ours.decode, engine.decode),
    }
    for name in names:
        most, mine, other = cases[name]
        for count, depth, note in depths(limit, most):
            yield Comparison(
                Quantity(at_depth(name, count, depth), "tok/s", True, note),
                lambda mine=mine, n=count, d=depth: n / mine(n, d),
                lambda other=other, n=count, d=depth: n / other(n, d),
            )


class LlamaCpp:
    """llama.cpp through llama-cpp-python, on the CPU."""

    def __init__(self, gguf: Path, context: int, threads: int) -> None:
        """Raises OmniError without llama-cpp-python, or for a file that it cannot read."""
        llama: Any = importlib.import_module("llama_cpp")
        try:
            self._llama = llama.Llama(
                str(readable(gguf)),
                n_ctx=context,
                n_batch=PROMPT,
                n_threads=threads,
                n_threads_batch=threads,
                n_gpu_layers=0,
                verbose=False,
            )
        except ValueError as error:  # raised for a file that is not a model
            raise unloadable(gguf, error) from None
        self.name = f"llama.cpp ({llama_version()})"
        self.detail = gguf.name
        self._random = np.random.default_rng(0)

    def prefill(self, count: int, depth: int = 0) -> float:
        """Prefill `count` tokens at once after `depth` tokens."""
        self._set_depth(depth)
        tokens = self._tokens(count)
        return seconds(lambda: self._llama.eval(tokens))

    def decode(self, count: int, depth: int = 0) -> float:
        """Decode `count` tokens one by one after `depth` tokens."""
        self._set_depth(depth)
        tokens = self._tokens(count)

        def steps() -> None:
            for token in tokens:
                self._llama.eval([token])

        return seconds(steps)

    def _set_depth(self, depth: int) -> None:
        """Truncate or extend the context to `depth` tokens; `eval` truncates to `n_tokens`."""
        self._llama.n_tokens = min(depth, self._llama.n_tokens)
        if missing := depth - self._llama.n_tokens:
            self._llama.eval(self._tokens(missing))

    def _tokens(self, count: int) -> list[int]:
        return self._random.integers(0, self._llama.n_vocab(), count).tolist()


class LlamaServer:
    """llama.cpp through the server of xllamacpp, with the server's timings. It has wheels."""

    def __init__(self, gguf: Path, context: int, threads: int) -> None:
        """Raises OmniError for a file that is not a GGUF. A damaged GGUF aborts the process."""
        server: Any = importlib.import_module("xllamacpp")
        params = server.CommonParams()
        params.model.path = str(readable(gguf))
        params.n_ctx = context
        params.n_batch = params.n_ubatch = PROMPT
        params.n_parallel, params.n_gpu_layers, params.verbosity = 1, 0, -1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        try:
            self._server = server.Server(params)
        except RuntimeError as error:
            raise unloadable(gguf, error) from None
        self.name = f"llama.cpp (xllamacpp {importlib.metadata.version('xllamacpp')})"
        self.detail = gguf.name
        self._random = np.random.default_rng(0)
        self._prefix: list[int] = []
        """Tokens before those that are timed. The server caches the prefix of its last prompt."""

    def prefill(self, count: int, depth: int = 0) -> float:
        """Prefill `count` tokens at once after `depth` tokens."""
        timings = self._run([*self._set_depth(depth), *self._tokens(count)], 1)
        if timings["prompt_n"] != count:
            raise OmniError(
                f"llama.cpp read {timings['prompt_n']} tokens instead of {count}",
                fix="pip install llama-cpp-python, which does not use a server",
            )
        return float(timings["prompt_ms"]) / 1000

    def decode(self, count: int, depth: int = 0) -> float:
        """Decode `count` tokens one by one after `depth` tokens."""
        timings = self._run([*self._set_depth(depth), *self._tokens(1)], count + 1)
        return float(timings["predicted_ms"]) / 1000

    def _set_depth(self, depth: int) -> list[int]:
        """Return `depth` tokens that are in the cache of the server."""
        if missing := depth - len(self._prefix):
            self._prefix = [*self._prefix, *self._tokens(max(0, missing))][:depth]
        if depth:
            self._run(self._prefix, 1)
        return self._prefix

    def _run(self, tokens: list[int], count: int) -> dict[str, float]:
        request = {
            "prompt": tokens,
            "n_predict": count,
            "cache_prompt": True,
            "ignore_eos": True,
            "top_k": 1,
        }
        answer = self._server.handle_completions(request)
        if "timings" not in answer:
            raise OmniError(
                f"llama.cpp rejects the request: {answer.get('message', answer)}",
                fix="give another --gguf",
            )
        found: dict[str, float] = answer["timings"]
        return found

    def _tokens(self, count: int) -> list[int]:
        return self._random.integers(3, SAFE_IDS, count).tolist()


def unloadable(gguf: Path, why: object) -> OmniError:
    return OmniError(f"llama.cpp cannot load {gguf}: {why}", fix="name a GGUF of a text model")


def readable(gguf: Path) -> Path:
    """Return the file if it starts like a GGUF. Raises OmniError otherwise."""
    if not gguf.is_file():
        raise OmniError(f"there is no file {gguf}", fix="--gguf FILE, or leave it out")
    with gguf.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise unloadable(gguf, "not a GGUF")
    return gguf


def llama(gguf: Path, context: int, threads: int) -> TextEngine:
    """Load llama.cpp with the installed one of its two packages. Raises as their classes do."""
    engines: dict[str, type[LlamaCpp | LlamaServer]] = {
        "llama_cpp": LlamaCpp,
        "xllamacpp": LlamaServer,
    }
    return engines[llama_package()](gguf, context, threads)


def llama_package() -> str:
    """Return the installed module for llama.cpp. Raises OmniError if there is none."""
    for name in ("llama_cpp", "xllamacpp"):
        with suppress(ImportError):
            importlib.import_module(name)
            return name
    raise OmniError("llama.cpp is not installed", fix="pip install xllamacpp gguf")


def llama_version() -> str:
    """Return the version of llama-cpp-python."""
    return f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')}"
