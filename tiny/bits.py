"""What the form of the weights costs the trained Thinker, before any of it is built.

    python -m tiny.bits

Each scheme rounds the matrices of the Thinker's layers as MatMulNBits would store them and reads
the exam's conversations. Its logits are compared with those of the unrounded weights where replies
are written: bits alone say little about that. Products stay in float32 here.
"""

from collections.abc import Callable, Iterator
from itertools import islice, product

import torch
from torch.nn import functional

from tiny import exam, scenes, thinker
from tiny.training import inner

KINDS = {"typed": 300, "picture": 150}
BITS = (4, 8)
BLOCKS = (32, 64, 128)
SHRINK = torch.linspace(1.0, 0.7, 16).tolist()
"""Shares of a block's range that a search tries."""
Rounding = Callable[[torch.Tensor], torch.Tensor]


def rounded(
    weight: torch.Tensor, bits: int, block: int, *, symmetric: bool, search: bool
) -> torch.Tensor:
    """`weight` (outer, inner) as it is after packing: each block of a row has its own scale."""
    top = 2**bits - 1
    size = weight.shape[1]
    blocks = functional.pad(weight, (0, -size % block)).unflatten(1, (-1, block))
    low = blocks.amin(2, keepdim=True).clamp(max=0)
    high = blocks.amax(2, keepdim=True).clamp(min=0)
    best = torch.zeros_like(blocks)
    least = torch.full_like(low, torch.inf)
    for share in SHRINK if search else (1.0,):
        if symmetric:  # the scale's sign is free: the larger side has one step more
            scale = torch.where(high > -low, high, low) * share / -(2 ** (bits - 1))
            zero = torch.full_like(scale, 2 ** (bits - 1))
        else:
            scale = (high - low) * share / top
            zero = (-low * share / scale.clamp(min=1e-12)).round().clamp(0, top)
        scale = torch.where(scale == 0, 1.0, scale)
        found = ((blocks / scale).round() + zero).clamp(0, top)
        found = (found - zero) * scale
        error = (found - blocks).square().sum(2, keepdim=True)
        best = torch.where(error < least, found, best)
        least = torch.minimum(error, least)
    return best.flatten(1)[:, :size]


def schemes() -> Iterator[tuple[str, float, Rounding]]:
    """Name, bits a weight with scales (float32, as the CPU kernel reads them), and rounding."""
    for bits, block, symmetric, search in product(BITS, BLOCKS, (True, False), (False, True)):
        if bits == 8 and (search or not symmetric):
            continue
        name = f"{bits} bits, block {block}, {'symmetric' if symmetric else 'zero points'}"
        stored = bits + 32 / block + (0 if symmetric else bits / block)

        def act(weight: torch.Tensor, b=bits, k=block, s=symmetric, f=search) -> torch.Tensor:
            return rounded(weight, b, k, symmetric=s, search=f)

        yield name + (", searched" if search else ""), stored, act


def batches() -> list[thinker.Batch]:
    """The exam's conversations, six at a time."""
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
    """Log probabilities (tokens, vocabulary) wherever a reply is written."""
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

    print(f"float32: {nats(exact):.4f} nats a token")  # noqa: T201
    print("| scheme | bits a weight | error | nats more | KL | tokens changed |")  # noqa: T201
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
