"""A pipeline's parts trained from nothing by the one trainer: their own rate, mean, decay and names in the checkpoint.

::

    {kind}.{module}.{parameter},   kind = model, average, exp_avg, exp_avg_sq;   steps done and losses as metadata

Parameters have their names in the file, as its modules are put together anew by those who read it. It is as it was
before there was one trainer, so that what was begun then goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from diffusion.runtime.files import atomic_write
from diffusion.tasks.config import FitConfig
from diffusion.training.checkpoints import MEMORY
from diffusion.training.trainer import Objective, Trainer

EVERY = 500  # steps from one checkpoint to the next


class Pretraining(Trainer):
    """One stage: :class:`~diffusion.training.trainer.Trainer` with a warm-up of 200 steps, resumed from ``folder``.

    Args:
        modules: what is trained, each under its name in the checkpoint.
        objective: loss of a step, by its number and its own generator.
        steps: how many there are in all; the rate falls towards the last.
    """

    weight_decay = 1e-4
    longest_mean = 0.999
    warmup = 200

    def __init__(
        self,
        folder: Path,
        modules: dict[str, nn.Module],
        objective: Objective,
        steps: int,
        peak_rate: float,
        seed: int,
    ) -> None:
        self.folder, self.modules, self.seed = folder, nn.ModuleDict(modules), seed
        self.names = [name for name, _ in self.modules.named_parameters()]
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(
            self.modules,
            list(self.modules.parameters()),
            objective,
            FitConfig(max_train_steps=steps, learning_rate=peak_rate, seed=seed),
            checkpoint=folder / "state.safetensors",
            every=EVERY,
        )

    def generator(self, step: int) -> torch.Generator:
        """That of a step, or, below 0, one that no step has."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + step)

    def complete(self) -> list[float]:
        """All steps that are left, with a bar, and the averaged weights in place; the losses."""
        with self._bar():
            self.run()
        return self.finish()

    @contextmanager
    def _bar(self) -> Iterator[None]:
        steps = self.settings.max_train_steps
        with tqdm(initial=self.done, total=steps, desc=self.folder.name) as bar:
            self._progress = bar.update
            yield

    def write(self, path: Path) -> None:
        tensors: dict[str, Tensor] = {}
        for name, value, mean in zip(self.names, self.parameters, self.average, strict=True):
            tensors |= {f"model.{name}": value.detach(), f"average.{name}": mean}
            tensors |= {f"{kind}.{name}": self.optimizer.state[value][kind] for kind in MEMORY}
        metadata = {"done": str(self.done), "losses": json.dumps([round(x, 5) for x in self.losses])}
        with atomic_write(path) as partial:
            save_file({key: value.contiguous() for key, value in tensors.items()}, partial, metadata=metadata)

    def read(self, path: Path) -> bool:
        with safe_open(path, "pt") as file, torch.no_grad():
            metadata = file.metadata()
            self.done, self.losses = int(metadata["done"]), json.loads(metadata["losses"])
            for name, value, mean in zip(self.names, self.parameters, self.average, strict=True):
                value.copy_(file.get_tensor(f"model.{name}"))
                mean.copy_(file.get_tensor(f"average.{name}"))
                memory = {kind: file.get_tensor(f"{kind}.{name}") for kind in MEMORY}
                self.optimizer.state[value] = {"step": torch.tensor(float(self.done)), **memory}
        return True
