"""One decoder graph with its KV caches: rows in, hidden states and logits out."""

from typing import cast

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from omni_runtime.bundle.config import DecoderConfig
from omni_runtime.bundle.contracts import CacheType
from omni_runtime.engine.kv_cache import KVCache, Positions
from omni_runtime.engine.session import DTYPES

FloatArray = npt.NDArray[np.float32]

PREFILL_ROWS = 512
"""Longest piece of a prefill: bounds the memory of activations."""


class Decoder:
    """A Thinker or Talker step. The cache belongs to the caller and may change between calls."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        past = next(node for node in session.get_inputs() if node.name.startswith("past_"))
        self._cache_type: CacheType = cast("CacheType", DTYPES[past.type])
        self._binding = session.io_binding()
        self._bound = 0
        self._free_outputs = [
            node.name for node in session.get_outputs() if not node.name.startswith("present_")
        ]
        self._last = np.zeros(1, np.int32)
        self._total = np.zeros((), np.int32)

    def new_cache(self, config: DecoderConfig, limit: int | None = None) -> KVCache:
        """An empty cache of the graph's type."""
        return KVCache(config, self._cache_type, limit=limit)

    def extend(
        self, cache: KVCache, rows: FloatArray, positions: Positions
    ) -> dict[str, FloatArray]:
        """Append `rows` (n, width) at `positions` (3, n) to the cache, n >= 1.

        Returns the graph's outputs by name: `hidden` (n, width) where the graph has it, and
        `logits` (vocabulary,) after the last row.

        Raises ContextFullError, with the cache as it was before, when the rows do not fit.
        """
        before = cache.length
        cache.append(positions)  # all room first, so that a failure leaves nothing half done
        hidden: list[FloatArray] = []
        outputs: dict[str, FloatArray] = {}
        for start in range(0, len(rows), PREFILL_ROWS):
            outputs = self._step(cache, rows[start : start + PREFILL_ROWS])
            if "hidden" in outputs:
                hidden.append(outputs["hidden"][0])
        assert cache.length == before + len(rows)
        outputs["logits"] = outputs["logits"][0]
        if hidden:
            outputs["hidden"] = hidden[0] if len(hidden) == 1 else np.concatenate(hidden)
        return outputs

    def _step(self, cache: KVCache, rows: FloatArray) -> dict[str, FloatArray]:
        self._bind(cache)
        total = cache.length + len(rows)
        self._last[0] = total - 1
        self._total[...] = total
        binding = self._binding
        binding.bind_cpu_input("embeddings", np.ascontiguousarray(rows, np.float32)[None])
        binding.bind_cpu_input("last_position", self._last)
        binding.bind_cpu_input("total_length", self._total)
        for name in self._free_outputs:
            binding.bind_output(name)  # a fresh buffer: the number of rows may differ
        self._session.run_with_iobinding(binding)
        cache.commit(len(rows))
        found = binding.get_outputs()
        return {name: found[i].numpy() for i, name in enumerate(self._free_outputs)}

    def _bind(self, cache: KVCache) -> None:
        """Bind the buffers of the cache, unless they are the ones bound already."""
        if self._bound == cache.buffers:
            return
        binding = self._binding
        binding.clear_binding_inputs()
        binding.clear_binding_outputs()
        binding.bind_cpu_input("cos", cache.cos)
        binding.bind_cpu_input("sin", cache.sin)
        for name in self._free_outputs:  # outputs come back in the order of their first binding
            binding.bind_output(name)
        for index, value in enumerate(cache.values):
            layer, kind = index // 2, ("key", "value")[index % 2]
            binding.bind_ortvalue_input(f"past_{kind}_{layer}", value)
            binding.bind_ortvalue_output(f"present_{kind}_{layer}", value)
        self._bound = cache.buffers
