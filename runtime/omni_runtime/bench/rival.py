"""Another engine on the same work: what it must be able to do, and llama.cpp as one.

A rival runs a decoder of the Thinker's shape. Both sides do each work in turns (`rows.compare`).
"""

import importlib
import importlib.metadata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from omni_runtime.bench.parts import PROMPT, STEPS, ThinkerRunner, at_depth, depths
from omni_runtime.bench.rows import Contest, Quantity, seconds
from omni_runtime.errors import OmniError
from omni_runtime.model import Model

TEXT_WORKS = ("pp", "tg")


class Rival(Protocol):
    """An engine of text. Both works give the seconds that they took, without what prepares them.

    `name` says which engine it is, with its version; `detail` on what.
    """

    name: str
    detail: str

    def prefill(self, count: int, depth: int = 0) -> float:
        """Read `count` tokens at once behind `depth` others."""
        ...

    def decode(self, count: int, depth: int = 0) -> float:
        """Read `count` tokens one by one behind `depth` others."""
        ...


def text_contests(model: Model, rival: Rival, names: Sequence[str]) -> Iterator[Contest]:
    """Prefill and decode at each depth, as far as `names` has "pp" and "tg"."""
    ours, limit = ThinkerRunner(model), model.config.thinker.decoder.max_context
    works = {
        "pp": (PROMPT, ours.prefill, rival.prefill),
        "tg": (STEPS, ours.decode, rival.decode),
    }
    for name in names:
        most, mine, other = works[name]
        for count, depth, note in depths(limit, most):
            yield Contest(
                Quantity(at_depth(name, count, depth), "tok/s", True, note),
                lambda mine=mine, n=count, d=depth: n / mine(n, d),
                lambda other=other, n=count, d=depth: n / other(n, d),
            )


class LlamaCpp:
    """llama.cpp through llama-cpp-python, on the CPU."""

    def __init__(self, gguf: Path, context: int, threads: int) -> None:
        """Raises OmniError without llama-cpp-python, or for a file that it can't read."""
        llama: Any = llama_cpp()
        if not gguf.is_file():
            raise OmniError(f"there is no file {gguf}", fix="--gguf FILE, or leave it out")
        try:
            self._llama = llama.Llama(
                str(gguf),
                n_ctx=context,
                n_batch=PROMPT,
                n_threads=threads,
                n_threads_batch=threads,
                n_gpu_layers=0,
                verbose=False,
            )
        except ValueError as error:  # what llama-cpp-python raises for a file of another kind
            raise OmniError(
                f"llama.cpp can't load {gguf}: {error}", fix="name a GGUF of a text model"
            ) from None
        self.name = f"llama.cpp ({llama_version()})"
        self.detail = gguf.name
        self._random = np.random.default_rng(0)

    def prefill(self, count: int, depth: int = 0) -> float:
        """Read `count` tokens at once behind `depth` others."""
        self._to(depth)
        tokens = self._tokens(count)
        return seconds(lambda: self._llama.eval(tokens))

    def decode(self, count: int, depth: int = 0) -> float:
        """Read `count` tokens one by one behind `depth` others."""
        self._to(depth)
        tokens = self._tokens(count)

        def steps() -> None:
            for token in tokens:
                self._llama.eval([token])

        return seconds(steps)

    def _to(self, depth: int) -> None:
        """Make the context `depth` tokens long; `eval` drops what lies behind `n_tokens`."""
        self._llama.n_tokens = min(depth, self._llama.n_tokens)
        if missing := depth - self._llama.n_tokens:
            self._llama.eval(self._tokens(missing))

    def _tokens(self, count: int) -> list[int]:
        return self._random.integers(0, self._llama.n_vocab(), count).tolist()


def llama_cpp() -> Any:
    """The module of llama-cpp-python. Raises OmniError where it is not installed."""
    try:
        return importlib.import_module("llama_cpp")
    except ImportError:
        raise OmniError(
            "llama-cpp-python is not installed", fix="pip install llama-cpp-python gguf"
        ) from None


def llama_version() -> str:
    """Which llama-cpp-python is installed."""
    return f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')}"
