"""The diffusion transformer from codes to mel: one evaluation over blocks of frames.

The reference computes three things in every evaluation that are constants or inputs here: the time
modulation (a table by time point), the projection of codes and voice (`condition`), and keys and
values of the block to the left. Attention is local to blocks of frames. Some layers also attend to
one block to the left, others to one block to the right, so the cost is linear in the number of
blocks. The last block may be shorter: it is padded for attention alone. Reference:
Qwen2_5OmniToken2WavDiTModel of transformers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from onnxscript.nn import Module, ModuleList

from omni_export.graphs.layers import Linear, Op, Value, attention, contrib_op, sequential
from omni_export.source import DitSource

NORM_EPS = 1e-6  # fixed in the reference, not part of the configuration

Window = tuple[bool, bool]
"""Whether a layer attends to the previous block, and to the next block."""


@dataclass(frozen=True)
class Evaluation:
    """Inputs that all layers of one evaluation share. See the contract for the shapes."""

    modulation: Value
    cos: Value
    sin: Value
    bias: Mapping[Window, Value]
    frames: Value
    padding: Value
    """Pads the frames to whole blocks."""
    commit: Value


@dataclass(frozen=True)
class LeftBlock:
    """Keys and values (branches, block, inner) of the block before a chunk, for one layer."""

    key: Value
    value: Value


def modulated(op: Op, x: Value, scale: Value, shift: Value) -> Value:
    """Normalise, scale and shift; `scale` already includes the 1 that the reference adds."""
    return op.LayerNormalization(x, scale, shift, axis=-1, epsilon=NORM_EPS)


class DitAttention(Module):
    """Attention of each block to its own frames and the neighbouring blocks in its window."""

    def __init__(self, config: DitSource, window: Window) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.head_dim = config.head_dim
        self.inner = self.heads * self.head_dim
        self.block = config.block_size
        self.window = window
        width = config.hidden_size
        self.to_qkv = Linear(width, {"to_q": self.inner, "to_k": self.inner, "to_v": self.inner})
        self.to_out = ModuleList([Linear(self.inner, width)])

    def forward(
        self, op: Op, x: Value, shared: Evaluation, left: LeftBlock | None
    ) -> tuple[Value, LeftBlock | None]:
        q, k, v = op.Split(self.to_qkv(op, x), axis=-1, num_outputs=3, _outputs=3)
        q, k = self._rotate(op, q, shared), self._rotate(op, k, shared)
        q, k, v = (op.Pad(part, shared.padding) for part in (q, k, v))
        # (branches, frames, inner) -> (branches, blocks, block, inner)
        k, v = (op.Reshape(part, [0, -1, self.block, self.inner]) for part in (k, v))
        keys, values = self._within_reach(op, k, v, left)
        span = self.block * (1 + sum(self.window))
        mixed = attention(
            op,
            op.Reshape(q, [-1, self.block, self.inner]),
            op.Reshape(keys, [-1, span, self.inner]),
            op.Reshape(values, [-1, span, self.inner]),
            self.heads,
            attention_bias=shared.bias[self.window],
        )
        known = op.Slice(op.Reshape(mixed, op.Shape(q)), [0], shared.frames, [1])
        out = self.to_out[0](op, known)
        if left is None:
            return out, None
        kept = [op.Squeeze(op.Gather(part, shared.commit, axis=1), [1]) for part in (k, v)]
        return out, LeftBlock(*kept)

    def _rotate(self, op: Op, x: Value, shared: Evaluation) -> Value:
        """Apply interleaved rotary positions to the first head; the other heads have none."""
        if self.heads == 1:
            return self._rotate_head(op, x, shared)
        first, rest = op.Split(x, [self.head_dim, self.inner - self.head_dim], axis=-1, _outputs=2)
        return op.Concat(self._rotate_head(op, first, shared), rest, axis=-1)

    @staticmethod
    def _rotate_head(op: Op, x: Value, shared: Evaluation) -> Value:
        zero = op.Constant(value_ints=[0])
        return contrib_op(
            op, "RotaryEmbedding", x, zero, shared.cos, shared.sin, interleaved=1, num_heads=1
        )

    def _within_reach(
        self, op: Op, k: Value, v: Value, left: LeftBlock | None
    ) -> tuple[Value, Value]:
        """Concatenate keys and values of each block and its neighbours."""
        sides_k, sides_v = [k], [v]
        if left is not None:
            for sides, part, edge in ((sides_k, k, left.key), (sides_v, v, left.value)):
                before = op.Slice(part, [0], [-1], [1])
                sides.insert(0, op.Concat(op.Unsqueeze(edge, [1]), before, axis=1))
        if self.window[1]:
            for sides, part in ((sides_k, k), (sides_v, v)):
                # The last block has no right neighbour. Any block will do, because it is masked.
                after = op.Slice(part, [1], [2**31 - 1], [1])
                sides.append(op.Concat(after, op.Slice(part, [0], [1], [1]), axis=1))
        if len(sides_k) == 1:
            return k, v
        return op.Concat(*sides_k, axis=2), op.Concat(*sides_v, axis=2)


class FeedForward(Module):
    """Two linear layers, named 0 and 3 in the checkpoint, with a tanh GELU in between."""

    def __init__(self, width: int, multiple: int) -> None:
        super().__init__()
        self.ff = sequential(
            {0: Linear(width, width * multiple), 3: Linear(width * multiple, width)}
        )

    def forward(self, op: Op, x: Value) -> Value:
        first, second = self.ff.children()
        return second(op, op.Gelu(first(op, x), approximate="tanh"))


class DitBlock(Module):
    def __init__(self, config: DitSource, index: int) -> None:
        super().__init__()
        window = (index in config.look_backward_layers, index in config.look_ahead_layers)
        self.attn = DitAttention(config, window)
        self.ff = FeedForward(config.hidden_size, config.ff_mult)
        self.index = index

    def forward(
        self, op: Op, x: Value, shared: Evaluation, left: LeftBlock | None
    ) -> tuple[Value, LeftBlock | None]:
        rows = op.Split(
            op.Squeeze(op.Gather(shared.modulation, [self.index], axis=0), [0]),
            axis=0,
            num_outputs=6,
            _outputs=6,
        )
        scale, shift, gate, ff_scale, ff_shift, ff_gate = (op.Squeeze(row, [0]) for row in rows)
        mixed, kept = self.attn(op, modulated(op, x, scale, shift), shared, left)
        x = op.Add(x, op.Mul(mixed, gate))
        inner = self.ff(op, modulated(op, x, ff_scale, ff_shift))
        return op.Add(x, op.Mul(inner, ff_gate)), kept


class MelProjection(Module):
    """The columns of the input projection for the noisy mel frames."""

    def __init__(self, config: DitSource) -> None:
        super().__init__()
        self.proj = Linear(
            config.mel_dim,
            config.hidden_size,
            bias=False,
            source_shape=(config.hidden_size, config.input_width),
        )

    def forward(self, op: Op, x: Value) -> Value:
        return self.proj(op, x)


class Dit(Module):
    def __init__(self, config: DitSource) -> None:
        super().__init__()
        self.config = config
        self.input_embed = MelProjection(config)
        self.blocks = [DitBlock(config, index) for index in range(config.num_hidden_layers)]
        self.transformer_blocks = ModuleList([*self.blocks])
        self.proj_out = Linear(config.hidden_size, config.mel_dim)

    def forward(
        self,
        op: Op,
        noisy: Value,
        condition: Value,
        modulation: Value,
        final_modulation: Value,
        cos: Value,
        sin: Value,
        key_bias: Value,
        commit: Value,
        past_key: Value,
        past_value: Value,
    ) -> list[Value]:
        branches = op.Shape(condition, start=0, end=1)
        bias = {window: self._bias(op, key_bias, branches, window) for window in self._windows()}
        frames = op.Shape(noisy, start=1, end=2)
        shared = Evaluation(
            modulation, cos, sin, bias, frames, self._padding(op, key_bias, frames), commit
        )
        x = op.Add(self.input_embed(op, noisy), condition)
        kept: list[LeftBlock] = []
        for block in self.blocks:
            left = None
            if block.attn.window[0]:
                number = [len(kept)]
                left = LeftBlock(
                    op.Squeeze(op.Gather(past_key, number, axis=0), [0]),
                    op.Squeeze(op.Gather(past_value, number, axis=0), [0]),
                )
            x, present = block(op, x, shared, left)
            if present is not None:
                kept.append(present)
        scale, shift = op.Split(final_modulation, axis=0, num_outputs=2, _outputs=2)
        x = modulated(op, x, op.Squeeze(scale, [0]), op.Squeeze(shift, [0]))
        return [
            self.proj_out(op, x),
            op.Concat(*(op.Unsqueeze(block.key, [0]) for block in kept), axis=0),
            op.Concat(*(op.Unsqueeze(block.value, [0]) for block in kept), axis=0),
        ]

    def _padding(self, op: Op, key_bias: Value, frames: Value) -> Value:
        """Return the pads that fill the last block of (branches, frames, width)."""
        blocks = op.Sub(op.Shape(key_bias, start=0, end=1), [2])
        missing = op.Sub(op.Mul(blocks, [self.config.block_size]), frames)
        none = op.Constant(value_ints=[0, 0])
        return op.Concat(none, none, missing, op.Constant(value_ints=[0]), axis=0)

    def _windows(self) -> set[Window]:
        return {block.attn.window for block in self.blocks}

    def _bias(self, op: Op, key_bias: Value, branches: Value, window: Window) -> Value:
        """Return the attention bias of a window, from (blocks + 2, block).

        The result is float32 (branches * blocks, 1, block, keys in window).
        """
        size = self.config.block_size
        sides = [op.Slice(key_bias, [1], [-1], [0])]
        if window[0]:
            sides.insert(0, op.Slice(key_bias, [0], [-2], [0]))
        if window[1]:
            sides.append(op.Slice(key_bias, [2], [2**31 - 1], [0]))
        row = op.Concat(*sides, axis=1) if len(sides) > 1 else sides[0]
        shape = op.Concat(
            branches, op.Constant(value_ints=[1, size, size * len(sides)]), axis=0
        )  # broadcast against (1, blocks, 1, keys)
        spread = op.Expand(op.Unsqueeze(row, [0, 2]), shape)
        return op.Reshape(spread, [-1, 1, size, size * len(sides)])
