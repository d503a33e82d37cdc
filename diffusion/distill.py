r"""Into a LoRA: fitting adapters so that the network itself samples the optimal target.

Let T be the frozen network (adapters off) under the anchor, f the student, y the denoising target of a draw x_0 ~ q, w
= exp(log w(rho(x_0)))/max w its weight and wbar(x_t) an estimate of E_q[w | x_t] (from the head at level t). Tilted
denoising minimises E_q[w |y - f|^2], whose optimum is the exact score of the noised target. The same gradient, with T
and wbar as control variates, is that of

    E_q[ w |f - T|^2 - 2 (w - wbar) <f - T, y - T> ].

If T is q's own denoiser, E[y | x_t] = T, the optimum is that of tilted denoising, E[w y]/E[w], whatever wbar is: it
only decides how much noise the gradient has. If T is off but wbar is right, the optimum is E[w y]/E[w] + (T - E[y]):
the student keeps the teacher's own error, which is what "change nothing else" asks for. Where a draw and its
neighbourhood do not show the concept, w = wbar and the noise of y drops out, which is most of the space.

Prompts that ask for the concept are fitted to the same tilted anchor; every other prompt is held to T under that
prompt, on draws of that prompt.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from .concepts import Prompts
from .head import Bottleneck, ContrastHead, log_snr, pooled
from .models import Condition, Denoiser, add_noise, repeat, rows

ADAPTER = "unlearned"
# Attention, convolution and feed-forward layers: where a concept is one shape among many in a small model, attention
# alone has too little to say.
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "conv_shortcut", "ff.net.0.proj", "ff.net.2")

LogWeight = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Fit:
    """How a LoRA is fitted."""

    steps: int = 450
    batch: int = 48
    rank: int = 8
    rate: float = 2e-3
    retain_share: float = 1 / 3
    seed: int = 0


@dataclass(frozen=True)
class Material:
    """What a fit learns from: draws of q with their weights in (0, 1], and draws of the prompts to be kept."""

    anchor_latents: Tensor  # (n, ...) draws of the anchor's law
    weights: Tensor  # (n,)
    retained_latents: Tensor  # (r, ...)
    retained_prompts: tuple[str, ...]  # (r,)


def add_lora(denoiser: Denoiser, rank: int, seed: int) -> list[torch.nn.Parameter]:
    """Fresh adapters on the network; returns their parameters. The student starts equal to the teacher (B = 0)."""
    from peft import LoraConfig

    network = cast(Any, denoiser.network)
    if ADAPTER in getattr(network, "peft_config", {}):
        network.delete_adapters(ADAPTER)
    network.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # peft's initialisation takes no generator; the global state is restored
        network.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS)), ADAPTER)
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


class teacher:
    """The network with its adapters off, without gradient."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.network = cast(Any, denoiser.network)

    def __enter__(self) -> None:
        self._no_grad = torch.no_grad()
        self._no_grad.__enter__()
        self.network.disable_adapters()

    def __exit__(self, *error: Any) -> None:
        self.network.enable_adapters()
        self._no_grad.__exit__(*error)


def tilted_loss(f: Tensor, t: Tensor, y: Tensor, w: Tensor, wbar: Tensor) -> Tensor:
    """``mean[ w |f - T|^2 - 2 (w - wbar) <f - T, y - T> ]`` over states (n, ...), weights (n,)."""
    shape = (-1, *(1,) * (f.ndim - 1))
    moved = f - t
    return (w.view(shape) * moved.square() - 2 * (w - wbar).view(shape) * moved * (y - t)).mean()


def fit_lora(
    denoiser: Denoiser,
    prompts: Prompts,
    head: ContrastHead,
    noised_log_weight: LogWeight,
    material: Material,
    settings: Fit,
    *,
    checkpoint: Path | None = None,
    every: int = 100,
    progress: Callable[[int], object] | None = None,
) -> list[float]:
    """Fit adapters named :data:`ADAPTER` by tilted denoising; returns the losses. Resumes from ``checkpoint``.

    The checkpoint is written every ``every`` steps and holds all that the rest of the run depends on.
    """
    parameters = add_lora(denoiser, settings.rank, settings.seed)
    optimizer = torch.optim.AdamW(parameters, lr=settings.rate, weight_decay=0.0)
    # The last third averages the iterates (a decaying rate does the rest): a level of 1 % is a matter of small steps.
    average = [parameter.detach().clone() for parameter in parameters]
    empty = denoiser.condition([prompts.anchor])
    asking = denoiser.condition(
        [prompts.anchor, *(wording for concept in prompts.concepts for wording in concept.wordings)]
    )
    distinct = sorted(set(material.retained_prompts))
    kept = denoiser.condition(distinct)
    kept_row = torch.tensor([distinct.index(prompt) for prompt in material.retained_prompts])
    network, losses, done = cast(Any, denoiser.network), list[float](), 0
    if checkpoint is not None and checkpoint.exists():
        done, losses = _load(checkpoint, parameters, average, optimizer)
        if progress is not None:
            progress(done)
    retained = round(settings.batch * settings.retain_share)
    tilted = settings.batch - retained
    network.train()
    for step in range(done, settings.steps):
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        chosen = torch.randint(len(material.anchor_latents), (tilted,), generator=generator)
        other = torch.randint(len(material.retained_latents), (retained,), generator=generator)
        x0 = torch.cat([material.anchor_latents[chosen], material.retained_latents[other]])
        t = (torch.rand(1, generator=generator) + torch.arange(len(x0)) / len(x0)) % 1
        t = (t[torch.randperm(len(x0), generator=generator)] * denoiser.levels).long()
        eps = torch.randn(x0.shape, generator=generator)
        x, y = add_noise(denoiser, x0, eps, t), denoiser.target(x0, eps, t)
        # Half of the tilted rows under the anchor itself, half under the concept's wordings in turn.
        wording = torch.randint(len(next(iter(asking.values()))), (tilted,), generator=generator)
        wording[: tilted // 2] = 0
        other_rows = rows(kept, kept_row[other])
        with teacher(denoiser), Bottleneck(denoiser) as caught:
            under = _join(repeat(empty, tilted), other_rows)
            said = denoiser.predict(x, t, under)
            inner = cast(Tensor, caught.last)[:tilted]
            rho = head(pooled(inner, said[:tilted]), log_snr(denoiser, t[:tilted]))
            wbar = noised_log_weight(rho).exp().float()
        f = denoiser.predict(x, t, _join(rows(asking, wording), other_rows))
        loss = tilted_loss(f[:tilted], said[:tilted], y[:tilted], material.weights[chosen], wbar) * tilted
        loss = (loss + (f[tilted:] - said[tilted:]).square().mean() * retained) / len(x0)
        if not bool(torch.isfinite(loss)):
            raise FloatingPointError(f"the loss at step {step} is {float(loss.detach())}; the last checkpoint is kept")
        rate = settings.rate * min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        decay = min(0.98, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(average, [parameter.data for parameter in parameters], 1 - decay)
        losses.append(float(loss.detach()))
        if progress is not None:
            progress(1)
        if checkpoint is not None and (step + 1) % every == 0:
            _save(checkpoint, step + 1, losses, parameters, average, optimizer)
    with torch.no_grad():
        for parameter, value in zip(parameters, average, strict=True):
            parameter.copy_(value)
    network.eval()
    return losses


def _join(one: Condition, two: Condition) -> Condition:
    return {name: torch.cat([one[name], two[name]]) for name in one}


def _save(path: Path, done: int, losses: list[float], parameters: Any, average: Any, optimizer: Any) -> None:
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for index, (parameter, mean) in enumerate(zip(parameters, average, strict=True)):
        state = optimizer.state[parameter]
        tensors |= {f"{index}.value": parameter.detach(), f"{index}.average": mean}
        tensors |= {f"{index}.exp_avg": state["exp_avg"], f"{index}.exp_avg_sq": state["exp_avg_sq"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"done": str(done), "losses": json.dumps(losses)})
    os.replace(partial, path)


def _load(path: Path, parameters: Any, average: Any, optimizer: Any) -> tuple[int, list[float]]:
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors, done = load_file(path), int(metadata["done"])
    with torch.no_grad():
        for index, parameter in enumerate(parameters):
            parameter.copy_(tensors[f"{index}.value"])
            average[index].copy_(tensors[f"{index}.average"])
            optimizer.state[parameter] = {
                "step": torch.tensor(float(done)),
                "exp_avg": tensors[f"{index}.exp_avg"],
                "exp_avg_sq": tensors[f"{index}.exp_avg_sq"],
            }
    return done, json.loads(metadata["losses"])


def save_lora(denoiser: Denoiser, folder: Path) -> None:
    """``pytorch_lora_weights.safetensors``: a stock ``pipeline.load_lora_weights(folder)`` loads it with its alpha."""
    from peft import get_peft_model_state_dict

    network = cast(Any, denoiser.network)
    type(denoiser.pipeline).save_lora_weights(
        folder,
        unet_lora_layers=get_peft_model_state_dict(network, adapter_name=ADAPTER),
        unet_lora_adapter_metadata=network.peft_config[ADAPTER].to_dict(),
        safe_serialization=True,
    )
