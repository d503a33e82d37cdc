"""What a fit is resumed from, as one file: weights, averages, the optimiser's memory, losses, and further state.

::

    {i}.value, {i}.average, {i}.exp_avg, {i}.exp_avg_sq  of parameter i;  state.{name}  of whatever else a run keeps

Read back it is compared with its digest, and with the shapes of the fit that it is for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffusion.runtime.distributed import is_main
from diffusion.runtime.files import say
from diffusion.runtime.tensor_files import DamagedError, read_tensors, write_tensors

if TYPE_CHECKING:
    from diffusion.training.trainer import Trainer

MEMORY = ("exp_avg", "exp_avg_sq")  # of AdamW


def save_checkpoint(trainer: Trainer, path: Path) -> None:
    """By the main process; whole or not at all. ``OSError`` naming the file where it cannot be written."""
    if not is_main():
        return
    tensors: dict[str, Tensor] = {}
    for index, (parameter, mean) in enumerate(zip(trainer.parameters, trainer.average, strict=True)):
        memory = trainer.optimizer.state[parameter]
        # A parameter without a gradient so far (a frozen branch) has no memory yet.
        tensors |= {f"{index}.value": parameter.detach(), f"{index}.average": mean}
        tensors |= {f"{index}.{name}": memory[name] for name in MEMORY if name in memory}
    metadata = {"done": str(trainer.done), "since": str(trainer.since), "losses": json.dumps(trainer.losses)}
    if trainer.state is not None:
        tensors |= {f"state.{name}": value for name, value in trainer.state.tensors().items()}
        metadata["state"] = json.dumps(trainer.state.data())
    write_tensors(path, tensors, metadata)


def load_checkpoint(trainer: Trainer, path: Path) -> bool:
    """Go on from a file, and say from which step; a file that cannot be used is named, and nothing is changed."""
    try:
        tensors, metadata = read_tensors(path)
        _check(trainer, tensors)
    except DamagedError as error:
        if is_main():
            say(f"checkpoint {path} is not used, {error}; the fit begins anew")
        return False
    trainer.done, trainer.since = int(metadata["done"]), int(metadata["since"])
    trainer.losses = json.loads(metadata["losses"])
    with torch.no_grad():
        for index, parameter in enumerate(trainer.parameters):
            parameter.copy_(tensors[f"{index}.value"])
            trainer.average[index].copy_(tensors[f"{index}.average"])
            if f"{index}.exp_avg" in tensors:
                memory = {name: tensors[f"{index}.{name}"].to(parameter) for name in MEMORY}
                trainer.optimizer.state[parameter] = {"step": torch.tensor(float(trainer.done)), **memory}
    if trainer.state is not None:
        extra = {name.removeprefix("state."): t for name, t in tensors.items() if name.startswith("state.")}
        trainer.state.load(extra, json.loads(metadata["state"]))
    if is_main():
        say(f"resuming from step {trainer.done}, {path}")
    return True


def _check(trainer: Trainer, tensors: dict[str, Tensor]) -> None:
    for index, parameter in enumerate(trainer.parameters):
        for name in ("value", "average"):
            found = tensors.get(f"{index}.{name}")
            if found is None or found.shape != parameter.shape:
                shape = None if found is None else tuple(found.shape)
                raise DamagedError(f"its tensor {index}.{name} has shape {shape}, not {tuple(parameter.shape)}")
    if f"{len(trainer.parameters)}.value" in tensors:
        raise DamagedError("it is of a fit with more parameters")
