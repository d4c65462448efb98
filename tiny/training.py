"""The training loop of every stage: seeded, resumable, with a moving average of the weights.

Step n takes all its random numbers from a generator with seed n. A run that is stopped and resumed
therefore gives the same result as an uninterrupted run.
"""

import copy
import math
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from tiny.muon import Muon
from tiny.paths import WORK
from tiny.weights import continue_from


def mixed() -> AbstractContextManager[Any]:
    """Return bfloat16 autocast with AVX-512, else none: bfloat16 is 10 times slower there."""
    fast = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return torch.autocast("cpu", torch.bfloat16) if fast else nullcontext()


@dataclass(frozen=True)
class Plan:
    """Number of steps and learning rate of a stage."""

    steps: int
    rate: float
    warmup: int = 200
    final: float = 0.05
    decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    average: float = 0.999
    clip: float = 1.0
    seed: int = 0
    save_every: float = 120.0

    def rate_at(self, step: int) -> float:
        """Return the learning rate: linear warm-up, then half a cosine to `final` * rate."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        part = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.rate * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * part)))


def continued() -> bool:
    """Return whether the stage continues from committed weights."""
    return "--continue" in sys.argv


def chosen(plan: Plan, further: Plan) -> Plan:
    """Return the plan for random weights, or the plan for committed weights."""
    return further if continued() else plan


def inner(model: nn.Module) -> list[nn.Parameter]:
    """Return the matrices of the layers, for Muon; no tables, heads or convolutions."""
    return [
        weight
        for name, weight in model.named_parameters()
        if weight.ndim == 2 and re.search(r"\b(layers|blocks)\.\d", name)
    ]


Network = TypeVar("Network", bound=nn.Module)


class Trainer(Generic[Network]):
    """Owns the optimizer, average and file of one model; the stage owns the loss."""

    def __init__(self, name: str, model: Network, plan: Plan) -> None:
        torch.set_num_threads(int(os.environ.get("TINY_THREADS", "1")))
        self.model, self.plan = model, plan
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._averaged = [
            mean
            for mean, weight in zip(self.average.parameters(), model.parameters(), strict=True)
            if weight.requires_grad
        ]
        matrices = [weight for weight in inner(model) if weight.requires_grad]
        known = {id(weight) for weight in matrices}
        rest = [weight for weight in self._weights if id(weight) not in known]
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, lr=plan.rate, betas=plan.betas, weight_decay=plan.decay)
        ]
        if matrices:
            self._optimizers.append(Muon(matrices, lr=plan.rate, weight_decay=plan.decay))
        self.path = WORK / f"{name}.pt"
        self.step = 0
        self.companions: list[Trainer[Any]] = []  # trained in the same steps, so saved together
        self._losses: dict[str, float] = {}
        self._name = name
        if self.path.exists():
            self._load()
        elif continued():
            continue_from(name, model)
            self.average.load_state_dict(model.state_dict())

    def _load(self) -> None:
        state = torch.load(self.path, weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, found in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(found)

    def save(self) -> None:
        """Write to a temporary file, then replace `path`, so an interruption loses no state."""
        WORK.mkdir(parents=True, exist_ok=True)
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }
        part = self.path.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.path)
        for other in self.companions:
            other.save()

    def steps(self) -> Iterator[tuple[int, torch.Generator]]:
        """Yield the remaining steps, each with its own generator."""
        self.model.train()
        saved = logged = time.monotonic()
        begin = self.step
        for step in range(begin, self.plan.steps):
            yield step, torch.Generator().manual_seed(self.plan.seed * 1_000_003 + step)
            now = time.monotonic()
            if step % 50 == 0 and step > begin:
                losses = " ".join(f"{key} {value:.3f}" for key, value in self._losses.items())
                pace = 50 / (now - logged)
                print(f"{self._name} {step} {losses} {pace:.2f} steps/s", flush=True)  # noqa: T201
                logged = now
            if now - saved > self.plan.save_every:
                self.save()
                saved = now
        self.save()

    def log(self, **values: float) -> None:
        for key, value in values.items():
            self._losses[key] = 0.98 * self._losses.get(key, value) + 0.02 * value

    def update(self, loss: torch.Tensor) -> None:
        """Take one step of the optimizer and update the average."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.plan.rate_at(self.step)
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._weights, self.plan.clip)
        with mixed():  # a third of the time of Muon's products
            for optimizer in self._optimizers:
                optimizer.step()
        keep = min(self.plan.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, weight in zip(self._averaged, self._weights, strict=True):
                mean.lerp_(weight, 1 - keep)
        self.step += 1
