"""One decoder graph (Thinker or Talker step): rows in, hidden states and logits out."""

from collections.abc import Generator
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import numpy as np

from omni_runtime.arrays import FloatArray, IntArray
from omni_runtime.bundle.config import DecoderConfig
from omni_runtime.bundle.contracts import CacheType
from omni_runtime.engine.kv_cache import KVCache
from omni_runtime.engine.session import DTYPES, Graph

Steps = Generator[None, None, dict[str, FloatArray]]
"""A generator that yields between pieces of work, so that conversations can alternate."""

PREFILL_ROWS = 512
"""Rows per prefill piece; bounds the memory of activations."""


class Decoder:
    """Runs a decoder graph. The KV cache belongs to the caller and may differ between calls."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        past = next(node for node in graph.session.get_inputs() if node.name.startswith("past_"))
        self._cache_type: CacheType = cast("CacheType", DTYPES[past.type])
        self._free_outputs = [
            node.name
            for node in graph.session.get_outputs()
            if not node.name.startswith("present_")
        ]
        self._bindings: WeakKeyDictionary[KVCache, tuple[int, Any]] = WeakKeyDictionary()
        self._last = np.zeros(1, np.int32)
        self._total = np.zeros((), np.int32)

    def new_cache(self, config: DecoderConfig, limit: int | None = None) -> KVCache:
        """Return an empty cache of the graph's KV cache type."""
        return KVCache(config, self._cache_type, limit=limit)

    def extend(
        self, cache: KVCache, rows: FloatArray, positions: IntArray
    ) -> dict[str, FloatArray]:
        """Append `rows` (n, width) at `positions` (3, n) to the cache, n >= 1.

        Returns the graph's outputs by name: `hidden` (n, width) where the graph has it, and
        `logits` (vocabulary,) after the last row.

        Raises ContextFullError, with the cache as it was before, when the rows do not fit.
        """
        return complete(self.extend_steps(cache, rows, positions))

    def extend_steps(self, cache: KVCache, rows: FloatArray, positions: IntArray) -> Steps:
        """Like `extend`, in pieces of at most PREFILL_ROWS rows that are committed one by one."""
        before = cache.length
        cache.append(positions)  # checks the room for all rows before the first piece
        hidden: list[FloatArray] = []
        outputs: dict[str, FloatArray] = {}
        for start in range(0, len(rows), PREFILL_ROWS):
            if start:
                yield
            outputs = self._step(cache, rows[start : start + PREFILL_ROWS])
            if "hidden" in outputs:
                hidden.append(outputs["hidden"][0])
        assert cache.length == before + len(rows)
        outputs["logits"] = outputs["logits"][0]
        if hidden:
            outputs["hidden"] = hidden[0] if len(hidden) == 1 else np.concatenate(hidden)
        return outputs

    def _step(self, cache: KVCache, rows: FloatArray) -> dict[str, FloatArray]:
        binding = self._binding(cache)
        total = cache.length + len(rows)
        self._last[0] = total - 1
        self._total[...] = total
        binding.bind_cpu_input("embeddings", np.ascontiguousarray(rows, np.float32)[None])
        binding.bind_cpu_input("last_position", self._last)
        binding.bind_cpu_input("total_length", self._total)
        for name in self._free_outputs:
            binding.bind_output(name)  # a new buffer, since the number of rows may differ
        self._graph.run_with_iobinding(binding)
        cache.commit(len(rows))
        found = binding.get_outputs()
        return {name: found[i].numpy() for i, name in enumerate(self._free_outputs)}

    def _binding(self, cache: KVCache) -> Any:
        """Return the cached I/O binding of this KV cache, so that contexts alternate at no cost."""
        generation, bound = self._bindings.get(cache, (0, None))
        if generation == cache.generation:
            return bound
        binding = self._graph.session.io_binding()
        binding.bind_cpu_input("cos", cache.cos)
        binding.bind_cpu_input("sin", cache.sin)
        for name in self._free_outputs:  # outputs are returned in the order of binding
            binding.bind_output(name)
        for index, value in enumerate(cache.values):
            layer, kind = index // 2, ("key", "value")[index % 2]
            binding.bind_ortvalue_input(f"past_{kind}_{layer}", value)
            binding.bind_ortvalue_output(f"present_{kind}_{layer}", value)
        self._bindings[cache] = (cache.generation, binding)
        return binding


Result = TypeVar("Result")


def complete(steps: Generator[object, None, Result]) -> Result:
    """Run a generator to its end and return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value
