"""The audio encoder: a Whisper-like transformer over independent blocks of mel frames.

Blocks do not attend to each other, so any number of them forms a batch. A block can be encoded as
soon as its audio has arrived. Reference: Qwen2_5OmniAudioEncoder of transformers.
"""

import numpy as np
from onnxscript.nn import Module, ModuleList

from omni_export.graphs.layers import Conv1d, LayerNorm, Linear, Op, Value, attention, constant
from omni_export.source import AudioSource
from omni_runtime.arrays import FloatArray


def sinusoids(length: int, channels: int, max_timescale: float = 10000.0) -> FloatArray:
    """Return sinusoidal positions, float32 (length, channels): first sines, then cosines."""
    step = np.log(max_timescale) / (channels // 2 - 1)
    frequencies = np.exp(-step * np.arange(channels // 2, dtype=np.float32))
    angles = np.arange(length, dtype=np.float32)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


class AudioAttention(Module):
    """Full attention inside a block; the key projection has no bias."""

    def __init__(self, config: AudioSource) -> None:
        super().__init__()
        width = config.d_model
        self.heads = config.encoder_attention_heads
        self.width = width
        self.qkv_proj = Linear(
            width,
            {"q_proj": width, "k_proj": width, "v_proj": width},
            bias=("q_proj", "v_proj"),
        )
        self.out_proj = Linear(width, width)

    def forward(self, op: Op, x: Value, frames: Value) -> Value:
        q, k, v = op.Split(self.qkv_proj(op, x), axis=-1, num_outputs=3, _outputs=3)
        return self.out_proj(op, attention(op, q, k, v, self.heads, key_padding_mask=frames))


class AudioLayer(Module):
    def __init__(self, config: AudioSource) -> None:
        super().__init__()
        self.self_attn = AudioAttention(config)
        self.self_attn_layer_norm = LayerNorm(config.d_model)
        self.fc1 = Linear(config.d_model, config.encoder_ffn_dim)
        self.fc2 = Linear(config.encoder_ffn_dim, config.d_model)
        self.final_layer_norm = LayerNorm(config.d_model)

    def forward(self, op: Op, x: Value, frames: Value) -> Value:
        x = op.Add(x, self.self_attn(op, self.self_attn_layer_norm(op, x), frames))
        inner = op.Gelu(self.fc1(op, self.final_layer_norm(op, x)))
        return op.Add(x, self.fc2(op, inner))


class AudioEncoder(Module):
    def __init__(self, config: AudioSource) -> None:
        super().__init__()
        width = config.d_model
        self.conv1 = Conv1d(config.num_mel_bins, width, 3)
        self.conv2 = Conv1d(width, width, 3, stride=2)
        self.positions = constant(sinusoids(config.n_window, width))
        self.layers = ModuleList([AudioLayer(config) for _ in range(config.encoder_layers)])
        self.ln_post = LayerNorm(width)
        self.proj = Linear(width, config.output_dim)

    def forward(self, op: Op, mel: Value, frames: Value) -> Value:
        # Padding frames must be zero before the second convolution.
        steps = op.Range(0, op.Squeeze(op.Shape(mel, start=2, end=3)), 1)
        real = op.Less(op.Cast(steps, to=6), op.Unsqueeze(frames, [1]))
        x = op.Gelu(self.conv1(op, mel))
        x = op.Mul(x, op.Unsqueeze(op.Cast(real, to=1), [1]))
        x = op.Transpose(op.Gelu(self.conv2(op, x)), perm=[0, 2, 1])
        rows = op.Shape(x, start=1, end=2)
        x = op.Add(x, op.Slice(self.positions, [0], rows, [0]))

        halved = op.Add(op.Div(op.Sub(frames, 1), 2), 1)
        for layer in self.layers:
            x = layer(op, x, halved)
        return self.proj(op, self.ln_post(op, self._mean_of_pairs(op, x)))

    @staticmethod
    def _mean_of_pairs(op: Op, x: Value) -> Value:
        """Average pairs of rows: (blocks, rows, width) to (blocks, rows // 2, width).

        An odd last row is dropped.
        """
        pairs = op.AveragePool(op.Transpose(x, perm=[0, 2, 1]), kernel_shape=[2], strides=[2])
        return op.Transpose(pairs, perm=[0, 2, 1])
