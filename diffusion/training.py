r"""The one training loop: AdamW on adapters under a decaying rate, averaged iterates, checkpoints, exact resumption.

    theta_{k+1} = AdamW(theta_k, grad loss_k(theta_k)),    rate_k = rate · min(1, (k+1)/20) · (1 + cos(pi k/steps))/2
    mean_{k+1}  = d_k mean_k + (1 - d_k) theta_{k+1},      d_k = min(0.98, (k+1)/(k+10))

``loss_k`` gets a generator of its own, made from the seed and ``k``: a step depends on the weights, the optimiser's
memory and ``k``, on nothing else, so a run that was killed and resumed ends bit-equal on the same CPU. What delivers is
the mean: a level of 1 % is a matter of small steps.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

# A step's loss: its number and its own generator to a scalar with a gradient.
Objective = Callable[[int, torch.Generator], Tensor]
Progress = Callable[[int], object]


@dataclass(frozen=True)
class Fit:
    """How a LoRA is fitted."""

    steps: int = 340
    batch: int = 48
    rank: int = 8
    rate: float = 2e-3
    retain_share: float = 1 / 3
    seed: int = 0


class Stateful(Protocol):
    """What else a run depends on (multipliers, pools of draws), saved and resumed with the weights."""

    def tensors(self) -> dict[str, Tensor]:
        """Arrays, by name."""

    def data(self) -> Any:
        """Everything else, as plain JSON data; a double survives JSON bit for bit."""

    def load(self, tensors: dict[str, Tensor], data: Any) -> None:
        """Resume from what the other two gave."""


class Trainer:
    """Minimises ``objective`` over ``parameters``; resumes from ``checkpoint`` where that file exists.

    Raises ``FloatingPointError`` when a loss or a gradient is not finite, before the weights take it; the last
    checkpoint is kept. Raises ``OSError`` or the writer's own error when a checkpoint cannot be written (disk full):
    the one before stays whole.
    """

    def __init__(
        self,
        network: nn.Module,
        parameters: Sequence[nn.Parameter],
        objective: Objective,
        settings: Fit,
        *,
        checkpoint: Path | None = None,
        every: int = 100,
        progress: Progress | None = None,
        state: Stateful | None = None,
    ) -> None:
        self.network, self.parameters, self.objective, self.settings = network, list(parameters), objective, settings
        self.checkpoint, self.every, self.state = checkpoint, every, state
        self._progress: Progress = progress or (lambda _count: None)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=settings.rate, weight_decay=0.0)
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.losses: list[float] = []
        self.done = 0
        if checkpoint is not None and checkpoint.exists():
            self._load(checkpoint)
            self._progress(self.done)

    def run(self, until: int | None = None) -> None:
        """Optimiser steps until ``until`` are done in all (left out: the settings' number)."""
        self.network.train()
        settings = self.settings
        for step in range(self.done, settings.steps if until is None else until):
            generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
            loss = self.objective(step, generator)
            if not bool(torch.isfinite(loss)):
                raise FloatingPointError(
                    f"the loss at step {step} is {float(loss.detach())}; the last checkpoint is kept"
                )
            rate = settings.rate * min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
            if not bool(torch.isfinite(norm)):
                raise FloatingPointError(
                    f"the gradient at step {step} has norm {float(norm)}; the last checkpoint is kept"
                )
            self.optimizer.step()
            decay = min(0.98, (step + 1) / (step + 10))
            with torch.no_grad():
                torch._foreach_lerp_(self.average, [parameter.data for parameter in self.parameters], 1 - decay)
            self.losses.append(float(loss.detach()))
            self.done = step + 1
            self._progress(1)
            if self.checkpoint is not None and self.done % self.every == 0:
                self.save(self.checkpoint)
        self.network.eval()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the network carries the averaged weights: what would be delivered if the run ended here."""
        present = [parameter.detach().clone() for parameter in self.parameters]
        self._put(self.average)
        try:
            yield
        finally:
            self._put(present)

    def finish(self) -> list[float]:
        """Put the averaged weights in place; returns the losses of all steps."""
        self._put(self.average)
        self.network.eval()
        return self.losses

    def _put(self, values: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)

    def save(self, path: Path) -> None:
        """One safetensors file: weights, averages, the optimiser's memory, losses, and what ``state`` says."""
        from safetensors.torch import save_file

        tensors: dict[str, Tensor] = {}
        for index, (parameter, mean) in enumerate(zip(self.parameters, self.average, strict=True)):
            memory = self.optimizer.state[parameter]
            # A parameter without a gradient so far (a frozen branch) has no memory yet.
            tensors |= {f"{index}.value": parameter.detach(), f"{index}.average": mean}
            tensors |= {f"{index}.{name}": memory[name] for name in ("exp_avg", "exp_avg_sq") if name in memory}
        metadata = {"done": str(self.done), "losses": json.dumps(self.losses)}
        if self.state is not None:
            tensors |= {f"state.{name}": value for name, value in self.state.tensors().items()}
            metadata["state"] = json.dumps(self.state.data())
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        try:
            save_file({name: value.contiguous() for name, value in tensors.items()}, partial, metadata=metadata)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def _load(self, path: Path) -> None:
        from safetensors import safe_open
        from safetensors.torch import load_file

        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        tensors, self.done = load_file(path), int(metadata["done"])
        self.losses = json.loads(metadata["losses"])
        with torch.no_grad():
            for index, parameter in enumerate(self.parameters):
                parameter.copy_(tensors[f"{index}.value"])
                self.average[index].copy_(tensors[f"{index}.average"])
                if f"{index}.exp_avg" in tensors:
                    memory = {name: tensors[f"{index}.{name}"].to(parameter) for name in ("exp_avg", "exp_avg_sq")}
                    self.optimizer.state[parameter] = {"step": torch.tensor(float(self.done)), **memory}
        if self.state is not None:
            extra = {name.removeprefix("state."): t for name, t in tensors.items() if name.startswith("state.")}
            self.state.load(extra, json.loads(metadata["state"]))
