"""BigVGAN over a window of mel frames; each stage crops the context that is no longer needed.

A window inside an utterance has frames of context on both sides. Each stage computes only the
context that later stages need. Streaming is therefore exact and costs little more than one pass.
At the start and end of an utterance nothing is cropped, and the reference's own padding applies.
Reference: Qwen2_5OmniToken2WavBigVGANModel of transformers.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import onnx_ir as ir
from onnxscript import build_function
from onnxscript.nn import Module, ModuleList

from omni_export.graphs.layers import Conv1d, Op, Value, Weight, constant, vector
from omni_export.source import VocoderSource
from omni_runtime.arrays import FloatArray
from omni_runtime.bundle.contracts import DOMAIN, OPSET

FILTER_TAPS = 12
FILTER_CUTOFF = 0.25
FILTER_HALF_WIDTH = 0.3
MIN_DECIBEL = -115.0
REFERENCE_DECIBEL = 20.0
SNAKE_EPS = 1e-9
REACH = 3
"""Radius of the filters of an activation, in samples at the lower rate."""


def kaiser_sinc() -> FloatArray:
    """Return the 12-tap low-pass filter of each activation, float32 (12,), with sum 1.

    The beta is Kaiser's formula for an attenuation A between 21 and 50 dB: 0.5842 (A - 21)^0.4 +
    0.07886 (A - 21), with A = 2.285 (taps / 2 - 1) pi * 4 * half_width + 7.95.
    """
    half = FILTER_TAPS // 2
    attenuation = 2.285 * (half - 1) * np.pi * 4 * FILTER_HALF_WIDTH + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    else:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    time = np.arange(-half, half) + 0.5
    taps = 2 * FILTER_CUTOFF * np.kaiser(FILTER_TAPS, beta) * np.sinc(2 * FILTER_CUTOFF * time)
    return (taps / taps.sum()).astype(np.float32)


def _inverse_exp(beta: FloatArray) -> FloatArray:
    return (1 / (np.exp(beta) + SNAKE_EPS)).astype(np.float32)


class SnakeBeta(Module):
    """Parameters of x + sin(alpha x)^2 / beta for each channel, stored as logarithms."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = self._parameter(channels, np.exp)
        self.beta = self._parameter(channels, _inverse_exp)

    @staticmethod
    def _parameter(channels: int, function: Callable[[FloatArray], FloatArray]) -> Weight:
        return Weight(
            [channels, 1, 1],
            shapes=[(channels,)],
            build=lambda parts: function(parts[0]).reshape(-1, 1, 1),
        )

    def forward(self, op: Op) -> tuple[Value, Value]:
        del op  # calling the module only names its parameters
        return self.alpha, self.beta


@cache
def anti_aliased_snake() -> ir.Function:
    """Return the activation: upsample by 2, SnakeBeta, downsample by 2, with low-pass filters.

    The function takes x float32 (1, channels, time), alpha and 1 / beta (channels, 1, 1), and
    filters (2, 1, 7) and (1, 2, 7). It returns the shape of x. Both filters are polyphase: even and
    odd samples of the upsampled signal stay two channels and are never interleaved. Signal channels
    form the batch.
    """

    def trace(op: Op, x: Value, alpha: Value, beta: Value, up: Value, down: Value) -> Value:
        x = op.Unsqueeze(op.Squeeze(x, [0]), [1])
        doubled = op.Conv(op.Pad(x, [0, 0, REACH, 0, 0, REACH], mode="edge"), up)
        sine = op.Sin(op.Mul(doubled, alpha))
        doubled = op.Add(doubled, op.Mul(op.Mul(sine, sine), beta))
        # The edge samples of the upsampled signal are its first (even) and last (odd) samples.
        beside = [1, 2, REACH]
        first = op.Expand(op.Slice(doubled, [0, 0], [1, 1], [1, 2]), beside)
        last = op.Expand(op.Slice(doubled, [1, -1], [2, 2**31 - 1], [1, 2]), beside)
        halved = op.Conv(op.Concat(first, doubled, last, axis=2), down)
        return op.Unsqueeze(op.Squeeze(halved, [1]), [0])

    inputs = [ir.Value(name=name) for name in ("x", "alpha", "beta", "up", "down")]
    return build_function(
        trace, inputs, domain=DOMAIN, name="AntiAliasedSnake", opset_imports={"": OPSET}
    )


class Activation(Module):
    """The anti-aliased SnakeBeta activation of `channels` channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.act = SnakeBeta(channels)
        taps = kaiser_sinc()
        # Doubled sample 2t sees x[t-3 .. t+2], sample 2t+1 sees x[t-2 .. t+3]; the factor 2 keeps
        # the level. Output t then sees the doubled samples 2t-5 .. 2t+6.
        up = np.zeros((2, 1, 7), np.float32)
        up[0, 0, :6] = 2 * taps[1::2][::-1]
        up[1, 0, 1:] = 2 * taps[0::2][::-1]
        down = np.zeros((1, 2, 7), np.float32)
        down[0, 0, 1:] = taps[1::2]
        down[0, 1, :6] = taps[0::2]
        self.up = constant(up)
        self.down = constant(down)

    def forward(self, op: Op, x: Value) -> Value:
        found = op.call(anti_aliased_snake(), x, *self.act(op), self.up, self.down)
        found.type = ir.TensorType(ir.DataType.FLOAT)
        return found


class ResidualBlock(Module):
    """Three times: activation, dilated convolution, activation, convolution, residual sum."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = ModuleList(
            [Conv1d(channels, channels, kernel, dilation=dilation) for dilation in dilations]
        )
        self.convs2 = ModuleList([Conv1d(channels, channels, kernel) for _ in dilations])
        self.activations = ModuleList([Activation(channels) for _ in range(2 * len(dilations))])

    def forward(self, op: Op, x: Value) -> Value:
        steps = zip(self.convs1, self.convs2, strict=True)
        for index, (dilated, plain) in enumerate(steps):
            inner = dilated(op, self.activations[2 * index](op, x))
            inner = plain(op, self.activations[2 * index + 1](op, inner))
            x = op.Add(x, inner)
        return x


class Upsample(Module):
    """A transposed convolution that multiplies the rate by its stride."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        shape = (inputs, outputs, kernel)
        self.weight = Weight(shape, shapes=[shape], build=lambda parts: parts[0])
        self.bias = vector(outputs)
        self.stride = stride
        self.padding = (kernel - stride) // 2

    def forward(self, op: Op, x: Value) -> Value:
        return op.ConvTranspose(
            x,
            self.weight,
            self.bias,
            strides=[self.stride],
            pads=[self.padding, self.padding],
        )


class Vocoder(Module):
    def __init__(self, config: VocoderSource) -> None:
        super().__init__()
        self.config = config
        widths = [
            config.upsample_initial_channel // 2**stage
            for stage in range(len(config.upsample_rates) + 1)
        ]
        self.conv_pre = Conv1d(config.mel_dim, widths[0], 7)
        self.ups = ModuleList(
            [
                ModuleList([Upsample(widths[stage], widths[stage + 1], kernel, rate)])
                for stage, (rate, kernel) in enumerate(
                    zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True)
                )
            ]
        )
        self.resblocks = ModuleList(
            [
                ResidualBlock(width, kernel, tuple(dilations))
                for width in widths[1:]
                for kernel, dilations in zip(
                    config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True
                )
            ]
        )
        self.activation_post = Activation(widths[-1])
        self.conv_post = Conv1d(widths[-1], 1, 7, bias=False)

    def forward(self, op: Op, mel: Value, crops: Value) -> Value:
        x = self.conv_pre(op, self._decibels(op, mel))
        kernels = len(self.config.resblock_kernel_sizes)
        for stage, (upsample,) in enumerate(up.children() for up in self.ups):
            x = upsample(op, x)
            blocks = [self.resblocks[stage * kernels + index] for index in range(kernels)]
            total = blocks[0](op, x)
            for block in blocks[1:]:
                total = op.Add(total, block(op, x))
            x = self._crop(op, op.Div(total, float(kernels)), crops, stage)
        x = self.conv_post(op, self.activation_post(op, x))
        x = self._crop(op, x, crops, len(self.ups))
        return op.Reshape(op.Clip(x, -1.0, 1.0), [-1])

    @staticmethod
    def _decibels(op: Op, mel: Value) -> Value:
        """Convert log amplitude to -1 .. 1, as `process_mel_spectrogram` of the reference does."""
        decibels = op.Mul(op.Max(mel, MIN_DECIBEL / 20 * math.log(10)), 20 / math.log(10))
        shifted = op.Sub(decibels, REFERENCE_DECIBEL + MIN_DECIBEL)
        return op.Clip(op.Sub(op.Mul(shifted, -2 / MIN_DECIBEL), 1.0), -1.0, 1.0)

    @staticmethod
    def _crop(op: Op, x: Value, crops: Value, stage: int) -> Value:
        left, right = op.Split(op.Gather(crops, stage, axis=0), num_outputs=2, axis=0, _outputs=2)
        end = op.Sub(op.Shape(x, start=2, end=3), right)
        return op.Slice(x, left, end, [2])
