"""Methods that erase by prompts alone, each with one strength that nobody solves for: what ours are compared with.

All share trainer, averaging and seeds; learning rate, steps, batch size and rank are the configuration's, so that a
comparison can sweep them beside the strength.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffusion.methods.base import ErasureContext, fit_adapters
from diffusion.pipelines import Condition, Denoiser, rows
from diffusion.pipelines.base import device_of
from diffusion.pipelines.stepping import level_after, stepped
from diffusion.training.trainer import Objective

CROSS_ATTENTION = ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")


@dataclass(frozen=True)
class Erasure(ABC):
    """``strength``: what a comparison sweeps."""

    strength: float = 1.0

    def layers(self, denoiser: Denoiser, rank: int | None) -> Sequence[str] | None:
        """Ends of the names of the layers that are fitted; None for all that other methods fit."""
        return None

    @abstractmethod
    def objective(self, context: ErasureContext, parameters: Sequence[nn.Parameter]) -> Objective:
        """The loss of one step on ``parameters``, which are on the network."""

    def fit(self, context: ErasureContext) -> list[float]:
        """Leaves what was fitted active on the network; the losses of all steps. ``FloatingPointError`` when one is
        not finite."""
        layers = self.layers(context.denoiser, context.config.adapter_rank)
        return fit_adapters(context, lambda parameters: self.objective(context, parameters), targets=layers)


def inner_layers(denoiser: Denoiser, rank: int | None) -> list[str]:
    """Full names of all layers outside of cross-attention: those that adapters can go to, or (rank None) all leaves."""
    ends = denoiser.lora_targets
    return [
        name
        for name, module in denoiser.network.named_modules()
        if name
        and "attn2" not in name.split(".")
        and not any(True for _ in module.children())
        and next(module.parameters(), None) is not None
        and (rank is None or name.endswith(tuple(ends)))
    ]


def prompts_table(denoiser: Denoiser, prompts: Sequence[str]) -> tuple[Condition, dict[str, int]]:
    """The conditions of distinct prompts, and the row of each."""
    distinct = list(dict.fromkeys(prompts))
    return denoiser.condition(distinct), {prompt: row for row, prompt in enumerate(distinct)}


def state_type(denoiser: Denoiser) -> torch.dtype:
    """What states are held in: single precision, double where the network is."""
    return torch.promote_types(torch.float32, next(denoiser.network.parameters()).dtype)


def half_finished(
    denoiser: Denoiser, asked: Condition, scale: float, steps: int, done: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """States (n, ...) after ``done`` of ``steps`` steps of the pipeline's own scheduler from fresh noise, and the level
    (n,) that comes next; no gradient. The network is taken as it stands: base model or student.
    """
    if not 0 <= done < steps:
        raise ValueError(f"done must be from 0 to {steps - 1}, got {done}")
    n = len(next(iter(asked.values())))
    noise = torch.randn((n, *denoiser.sample_shape), generator=generator)
    seed = int(torch.randint(2**62, (1,), generator=generator.clone_state()))  # the caller's draws stay what they were
    start = noise.to(device_of(denoiser), state_type(denoiser))
    x = stepped(denoiser, start, asked, (0, done, steps), scale, seed=seed)
    return x, torch.full((n,), level_after(denoiser, steps, done), device=x.device)


def picked(table: Condition, row: dict[str, int], prompts: Sequence[str], chosen: Tensor) -> Condition:
    """The conditions of ``prompts[j]`` for j in chosen (n,)."""
    return rows(table, torch.tensor([row[prompts[int(j)]] for j in chosen]))
