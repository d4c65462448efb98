"""The KV cache of one decoder: keys, values and rotary tables of the tokens so far.

The same arrays are bound as input and output of the graph, so a step writes in place. Truncating
sets a smaller length. Buffers grow by doubling, up to the model's context.
"""

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from omni_runtime.arrays import FloatArray, IntArray
from omni_runtime.bundle.config import DecoderConfig
from omni_runtime.bundle.contracts import CacheType
from omni_runtime.errors import ContextFullError, OmniError
from omni_runtime.rotary import cos_sin, inverse_frequencies

FIRST_CAPACITY = 512
FORMAT = 1


class RotaryTable:
    """cos and sin of multimodal rotary positions (TMRoPE), one row per cache slot.

    `mrope_section` assigns each frequency to time, height or width. A row holds the angles of the
    (t, h, w) position of the token in that slot.
    """

    def __init__(self, config: DecoderConfig) -> None:
        self._inverse = inverse_frequencies(config.head_dim, config.rope_theta)
        self._axis = np.repeat([0, 1, 2], config.mrope_section)

    def rows(self, positions: IntArray) -> tuple[FloatArray, FloatArray]:
        """Return cos and sin, float32 (n, head_dim // 2) each, of positions int64 (3, n)."""
        angles = positions[self._axis].T.astype(np.float32) * self._inverse
        return cos_sin(angles)


class KVCache:
    """Keys and values of `length` tokens in buffers for `capacity` tokens."""

    def __init__(
        self, config: DecoderConfig, dtype: CacheType = "float32", *, limit: int | None = None
    ) -> None:
        """`limit` is the maximum number of tokens, at most the model's context."""
        self.config = config
        self.dtype: CacheType = dtype
        self.limit = min(limit or config.max_context, config.max_context)
        self.length = 0
        self.generation = 0
        """Counts the sets of buffers: a binding to an earlier set is stale."""
        self._rotary = RotaryTable(config)
        self._allocate(min(FIRST_CAPACITY, self.limit))

    @property
    def capacity(self) -> int:
        """Tokens that fit without growing."""
        return self.cos.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(array.nbytes for array in (*self.states, self.cos, self.sin))

    @staticmethod
    def bytes_for(config: DecoderConfig, tokens: int, dtype: CacheType = "float32") -> int:
        """Bytes of all buffers when the capacity is `tokens` tokens."""
        rotary = np.dtype(np.float32).itemsize * 2 * (config.head_dim // 2)
        return KVCache.state_bytes(config, tokens, dtype) + tokens * rotary

    @staticmethod
    def state_bytes(config: DecoderConfig, tokens: int, dtype: CacheType = "float32") -> int:
        """Bytes of keys and values alone, which attention reads."""
        one = np.dtype(dtype).itemsize * 2 * config.layers * config.kv_heads * config.head_dim
        return tokens * one

    @property
    def room(self) -> int:
        """Tokens that can still be appended."""
        return self.limit - self.length

    def check_room(self, rows: int) -> None:
        """Raise ContextFullError when `rows` more tokens do not fit."""
        if rows > self.room:
            raise ContextFullError(
                f"the context is full: {self.length} of {self.limit} tokens are in use and "
                f"{rows} more are asked for",
                fix="start a new conversation, undo a turn, or use shorter media",
            )

    def append(self, positions: IntArray) -> None:
        """Reserve slots for tokens at positions (3, n) and write their rotary rows.

        The caller then runs the step that fills keys and values, and calls `commit`.

        Raises ContextFullError when they do not fit.
        """
        self.check_room(positions.shape[1])
        needed = self.length + positions.shape[1]
        if needed > self.capacity:
            self._grow(needed)
        cos, sin = self._rotary.rows(positions)
        self.cos[self.length : needed] = cos
        self.sin[self.length : needed] = sin

    def commit(self, rows: int) -> None:
        """Add `rows` tokens, which a step has just written, to the length."""
        self.length += rows

    def truncate(self, length: int) -> None:
        """Drop all tokens from `length` on."""
        assert 0 <= length <= self.length, (length, self.length)
        self.length = length

    def replace_start(self, stop: int, start: "KVCache") -> None:
        """Replace the first `stop` tokens by the tokens of `start`, which are not more."""
        moved, kept = (
            slice(start.length, start.length + self.length - stop),
            slice(stop, self.length),
        )
        for array, other in zip(
            (*(state[0] for state in self.states), self.cos[None], self.sin[None]),
            (*(state[0] for state in start.states), start.cos[None], start.sin[None]),
            strict=True,
        ):
            array[:, moved] = array[:, kept]  # numpy copies where both overlap
            array[:, : start.length] = other[:, : start.length]
        self.length = moved.stop

    def fork(self, limit: int | None = None) -> "KVCache":
        """Return an independent copy, by default with the same limit."""
        copy = KVCache(self.config, self.dtype, limit=self.limit if limit is None else limit)
        if self.length > copy.capacity:
            copy._grow(self.length)
        copy._copy_from(self.states, self.cos, self.sin, self.length)
        return copy

    def save(self, path: Path) -> None:
        """Write the used part of the cache as .npz."""
        used = slice(0, self.length)
        states = np.stack([state[0, :, used] for state in self.states])
        with path.open("wb") as file:
            np.savez(file, format=FORMAT, states=states, cos=self.cos[used], sin=self.sin[used])

    @classmethod
    def load(
        cls,
        path: Path,
        config: DecoderConfig,
        dtype: CacheType = "float32",
        *,
        limit: int | None = None,
    ) -> "KVCache":
        """Read what `save` wrote.

        Raises OmniError for another model's cache, one of another dtype, or a damaged file,
        ContextFullError for one that is longer than `limit`.
        """
        fix = "start a new conversation"
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                states, cos, sin = file["states"], file["cos"], file["sin"]
                version = int(file["format"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise OmniError(f"{path} holds no saved cache: {error}", fix=fix) from None
        cache = cls(config, dtype, limit=limit)
        length = len(cos)
        expected = (2 * config.layers, config.kv_heads, length, config.head_dim)
        if version != FORMAT or states.shape != expected:
            raise OmniError(f"{path} was saved by another model or version", fix=fix)
        if states.dtype != dtype:
            raise OmniError(
                f"{path} holds a cache of {states.dtype}, not of {dtype}",
                fix=f'load it with kv_cache="{states.dtype}"',
                code="kv_cache_type",
                details={"dtype": str(states.dtype)},
            )
        if length > cache.limit:
            raise ContextFullError(
                f"{path} holds {length} tokens, the context has room for {cache.limit}",
                fix="use a longer context or a higher memory limit",
                code="context_too_short",
            )
        if length > cache.capacity:
            cache._grow(length)
        cache._copy_from([state[None] for state in states], cos, sin, length)
        return cache

    def _allocate(self, capacity: int) -> None:
        shape = (1, self.config.kv_heads, capacity, self.config.head_dim)
        self.states: list[npt.NDArray[Any]] = [
            np.zeros(shape, self.dtype) for _ in range(2 * self.config.layers)
        ]
        self.cos = np.zeros((capacity, self.config.head_dim // 2), np.float32)
        self.sin = np.zeros_like(self.cos)
        self.values = [ort.OrtValue.ortvalue_from_numpy(state) for state in self.states]
        self.generation += 1

    def _grow(self, needed: int) -> None:
        capacity = self.capacity
        while capacity < needed:
            capacity *= 2
        states, cos, sin = self.states, self.cos, self.sin
        self._allocate(min(capacity, self.limit))
        self._copy_from(states, cos, sin, self.length)

    def _copy_from(
        self, states: list[npt.NDArray[Any]], cos: FloatArray, sin: FloatArray, length: int
    ) -> None:
        for mine, other in zip(self.states, states, strict=True):
            mine[:, :, :length] = other[:, :, :length]
        self.cos[:length] = cos[:length]
        self.sin[:length] = sin[:length]
        self.length = length
