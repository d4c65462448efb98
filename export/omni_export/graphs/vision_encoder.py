"""The vision encoder: patches of an image or video, mostly with attention in small windows.

The runtime passes the patches in window order, with their geometry (rotary angles, windows,
frames). The graph therefore serves any resolution, and both images and videos. Reference:
Qwen2_5OmniVisionEncoder of transformers.
"""

from dataclasses import dataclass

from onnxscript.nn import Module, ModuleList

from omni_export.graphs.layers import (
    GatedMLP,
    Linear,
    Op,
    RMSNorm,
    Value,
    attention,
    contrib_op,
    sequential,
)
from omni_export.source import VisionSource

NORM_EPS = 1e-6  # fixed in the reference, not part of the configuration


@dataclass(frozen=True)
class Geometry:
    """Inputs of the graph that describe the positions of the patches. See the contract."""

    cos: Value
    sin: Value
    window_slots: Value
    window_lengths: Value
    unpad: Value
    grid_frames: Value


class PatchEmbed(Module):
    """A convolution with kernel equal to stride: one matrix product per patch."""

    def __init__(self, config: VisionSource) -> None:
        super().__init__()
        size, time = config.patch_size, config.temporal_patch_size
        self.proj = Linear(
            config.in_channels * time * size * size,
            config.hidden_size,
            bias=False,
            source_shape=(config.hidden_size, config.in_channels, time, size, size),
        )

    def forward(self, op: Op, patches: Value) -> Value:
        return self.proj(op, patches)


class VisionAttention(Module):
    def __init__(self, config: VisionSource, *, windowed: bool) -> None:
        super().__init__()
        width = config.hidden_size
        self.width = width
        self.heads = config.num_heads
        self.windowed = windowed
        self.qkv = Linear(width, {"q": width, "k": width, "v": width})
        self.proj = Linear(width, width)

    def forward(self, op: Op, x: Value, where: Geometry) -> Value:
        q, k, v = op.Split(self.qkv(op, x), axis=-1, num_outputs=3, _outputs=3)
        q, k = self._rotate(op, q, where), self._rotate(op, k, where)
        inside = self._in_windows if self.windowed else self._in_frames
        return self.proj(op, inside(op, q, k, v, where))

    def _rotate(self, op: Op, x: Value, where: Geometry) -> Value:
        zero, batch = op.Constant(value_ints=[0]), op.Unsqueeze(x, [0])
        rotated = contrib_op(
            op, "RotaryEmbedding", batch, zero, where.cos, where.sin, num_heads=self.heads
        )
        return op.Squeeze(rotated, [0])

    def _in_windows(self, op: Op, q: Value, k: Value, v: Value, where: Geometry) -> Value:
        q, k, v = (op.Gather(x, where.window_slots, axis=0) for x in (q, k, v))
        mixed = attention(op, q, k, v, self.heads, key_padding_mask=where.window_lengths)
        return op.Gather(op.Reshape(mixed, [-1, self.width]), where.unpad, axis=0)

    def _in_frames(self, op: Op, q: Value, k: Value, v: Value, where: Geometry) -> Value:
        shape = op.Concat(where.grid_frames, op.Constant(value_ints=[-1, self.width]), axis=0)
        q, k, v = (op.Reshape(x, shape) for x in (q, k, v))
        return op.Reshape(attention(op, q, k, v, self.heads), [-1, self.width])


class VisionBlock(Module):
    def __init__(self, config: VisionSource, *, windowed: bool) -> None:
        super().__init__()
        self.norm1 = RMSNorm(config.hidden_size, NORM_EPS)
        self.attn = VisionAttention(config, windowed=windowed)
        self.norm2 = RMSNorm(config.hidden_size, NORM_EPS)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size, bias=True)

    def forward(self, op: Op, x: Value, where: Geometry) -> Value:
        x = op.Add(x, self.attn(op, self.norm1(op, x), where))
        return op.Add(x, self.mlp(op, self.norm2(op, x)))


class PatchMerger(Module):
    """Merge each square of merge_size x merge_size consecutive patches into one row."""

    def __init__(self, config: VisionSource) -> None:
        super().__init__()
        self.merged = config.hidden_size * config.spatial_merge_size**2
        self.ln_q = RMSNorm(config.hidden_size, NORM_EPS)
        self.mlp = sequential(
            {0: Linear(self.merged, self.merged), 2: Linear(self.merged, config.out_hidden_size)}
        )

    def forward(self, op: Op, x: Value) -> Value:
        first, second = self.mlp.children()
        x = op.Reshape(self.ln_q(op, x), [-1, self.merged])
        return second(op, op.Gelu(first(op, x)))


class VisionEncoder(Module):
    def __init__(self, config: VisionSource) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(config)
        self.blocks = ModuleList(
            [
                VisionBlock(config, windowed=layer not in config.fullatt_block_indexes)
                for layer in range(config.depth)
            ]
        )
        self.merger = PatchMerger(config)

    def forward(self, op: Op, patches: Value, *geometry: Value) -> Value:
        where = Geometry(*geometry)
        x = self.patch_embed(op, patches)
        for block in self.blocks:
            x = block(op, x, where)
        return self.merger(op, x)
