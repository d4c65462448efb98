"""Accuracy of weight formats for the trained Thinker, measured before a format is implemented.

    python -m tiny.bits

Each scheme quantizes the matrices of the Thinker's layers as the export packs them, then prefills
the conversations of the evaluation. The logits of the replies are compared with those of the
float32 weights: bits alone say little about accuracy. Products stay in float32 here.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice, product
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from omni_quantize.nbits import BlockMatrix
from omni_quantize.recipe import Rule
from tiny import exam, scenes, thinker
from tiny.training import inner

KINDS = {"typed": 300, "picture": 150}
BLOCKS = (32, 64, 128)
Rounding = Callable[[torch.Tensor], torch.Tensor]


def rounded(weight: torch.Tensor, rule: Rule) -> torch.Tensor:
    """Return `weight` (outer, inner) quantized as the export packs it, then dequantized."""
    values = np.ascontiguousarray(weight.T.numpy())
    height, width = values.shape
    matrix = BlockMatrix("", height, width, rule, lambda start, stop: values[:, start:stop])
    parts = matrix.quantize(values)
    packed, scales = parts["packed"], parts["scales"][..., None]
    zeros = np.full(scales.shape, 2 ** (rule.bits - 1), np.float32)
    if rule.bits == 4:
        packed = nibbles(packed)
        if not rule.symmetric:
            zeros = nibbles(parts["zero_points"])[:, : scales.shape[1], None]
    blocks = (packed.astype(np.float32) - zeros) * scales
    return torch.from_numpy(blocks.reshape(len(blocks), -1)[:, : len(values)])


def nibbles(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Unpack two 4-bit numbers per byte along the last axis, low half first."""
    halves = np.stack([packed & 15, packed >> 4], -1).astype(np.uint8)
    return halves.reshape(*packed.shape[:-1], -1)


def schemes() -> Iterator[tuple[str, float, Rounding]]:
    """Yield name, bits per weight with scales (float16 for our kernel), and quantization."""
    forms: tuple[tuple[Literal[4, 8], bool], ...] = ((4, True), (4, False), (8, True))
    for (bits, symmetric), block in product(forms, BLOCKS):
        rule = Rule(
            match="*", method="nbits", reason="", bits=bits, block=block, symmetric=symmetric
        )
        stored = bits + (16 if symmetric else 32 + bits) / block
        name = f"{bits} bits, block {block}, {'symmetric' if symmetric else 'zero points'}"
        yield name, stored, partial(rounded, rule=rule)


def batches() -> list[thinker.Batch]:
    """Return the conversations of the evaluation, in batches of six."""
    made = []
    for kind, count in KINDS.items():
        asked = [item.asked for item in islice(exam.items(kind), count)]
        for start in range(0, count, 6):
            several = []
            for one in asked[start : start + 6]:
                talk = thinker.Conversation()
                for index, turn in enumerate(one.turns):
                    see = index == 0 and bool(one.frames)
                    talk.turn(turn, sight=scenes.look_at(one) if see else None)
                several.append(talk)
            made.append(thinker.collate(several))
    return made


def logits(model: thinker.Model, batch: thinker.Batch) -> torch.Tensor:
    """Return the log probabilities (tokens, vocabulary) of all reply tokens."""
    learned = batch.labels[:, 1:] != thinker.IGNORED
    return model.lm_head(thinker.forward(model, batch)[:, :-1][learned]).log_softmax(-1)


@torch.inference_mode()
def main() -> None:
    model, exams = thinker.trained(), batches()
    exact = [logits(model, batch) for batch in exams]
    wanted = [b.labels[:, 1:][b.labels[:, 1:] != thinker.IGNORED] for b in exams]
    matrices = inner(model.model)
    kept = [weight.clone() for weight in matrices]

    def nats(found: list[torch.Tensor]) -> float:
        every = [
            functional.nll_loss(f, w, reduction="sum") for f, w in zip(found, wanted, strict=True)
        ]
        return float(sum(every)) / sum(map(len, wanted))

    print(f"float32: {nats(exact):.4f} nats per token")  # noqa: T201
    print("| scheme | bits per weight | error | extra nats per token | KL | tokens changed |")  # noqa: T201
    for name, stored, act in schemes():
        error = size = 0.0
        for weight, original in zip(matrices, kept, strict=True):
            weight.copy_(act(original))
            error += float((weight - original).square().sum())
            size += float(original.square().sum())
        found = [logits(model, batch) for batch in exams]
        pairs = list(zip(exact, found, strict=True))
        count = sum(map(len, wanted))
        kl = sum(float((a.exp() * (a - b)).sum()) for a, b in pairs) / count
        changed = sum(int((a.argmax(1) != b.argmax(1)).sum()) for a, b in pairs) / count
        more = nats(found) - nats(exact)
        cells = f"{(error / size) ** 0.5:.2%} | {more:+.4f} | {kl:.5f} | {changed:.2%}"
        print(f"| {name} | {stored:.2f} | {cells} |", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
