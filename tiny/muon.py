"""Muon (Jordan et al. 2024), the optimizer of the matrices between embedding and head.

Every update has singular values of about one, so weak directions of the gradient count as much as
strong ones. torch's own Muon computes in bfloat16, which takes 15 times as long on a CPU without
bfloat16 instructions.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import nn

MOMENTUM = 0.95
LIKE_ADAM = 0.2
"""Root mean square of an AdamW update, so both use the same learning rate (Moonlight, 2025)."""


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Set the singular values of a batch of matrices to about one, by Newton-Schulz steps."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.mT).mT
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * (square @ square)) @ x
    return x


class Muon(torch.optim.Optimizer):
    """The optimizer, for matrices only; matrices of one shape are updated as one batch."""

    def __init__(self, weights: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    alike[weight.shape].append(weight)
            for shape, weights in alike.items():
                rate = group["lr"] * LIKE_ADAM * max(shape) ** 0.5
                updates = orthogonal(torch.stack([self._moved(weight) for weight in weights]))
                for weight, update in zip(weights, updates, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.sub_(update, alpha=rate)

    def _moved(self, weight: nn.Parameter) -> torch.Tensor:
        """Return the Nesterov momentum of the gradient."""
        assert weight.grad is not None
        mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
        mean.lerp_(weight.grad, 1 - MOMENTUM)
        return weight.grad.lerp(mean, MOMENTUM)
