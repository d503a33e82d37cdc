r"""Sampling the optimal target without training: the guidance rule of a solution, inside a stock sampler.

At a noised state every problem is negative guidance,

    output = q(x_t | c) + sum_i k_i(rho_t) (q(x_t) - q(x_t | u_i)),        k = solution.guidance(rho_t),

with rho_t from a contrast head on the activations of the same forward pass. Differences are taken on the raw output,
which is affine in the score (:mod:`diffusion.models`). Prompts that ask for a concept fall back to the anchor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from .concepts import Prompts
from .head import Bottleneck, ContrastHead, log_snr, pooled
from .models import Condition, Denoiser, repeat, rows

# Strengths: rho (n, m) at noise level t to k (n, m). `Solution.guidance` is one; a constant is another (ESD's rule).
Strength = Callable[[Tensor], Tensor]

# Below this strength the correction is left out, which saves the concept's network call: it is a thousandth of one
# unit of guidance, far under the network's own error.
NEGLIGIBLE = 1e-3


@dataclass
class Trace:
    """What guidance did, step by step: noise level, mean strength per concept, share of rows that were corrected."""

    steps: list[tuple[int, tuple[float, ...], float]] = field(default_factory=list)


class Guided:
    """``with Guided(denoiser, prompts, head, strength):`` every call of the pipeline samples the guided law.

    Works with any sampler and with classifier-free guidance: the network's output is corrected row by row, and the same
    correction on both halves of a classifier-free pair passes through unchanged.
    """

    def __init__(
        self, denoiser: Denoiser, prompts: Prompts, head: ContrastHead, strength: Strength, limit: float = 20.0
    ) -> None:
        self.denoiser, self.head, self.strength, self.limit = denoiser, head, strength, limit
        self.trace = Trace()
        wordings = [wording for concept in prompts.concepts for wording in concept.wordings]
        self._asking = denoiser.condition(wordings)
        self._anchor = denoiser.condition([prompts.anchor])
        self._empty = denoiser.condition([""])
        self._concepts = denoiser.condition([concept.name for concept in prompts.concepts])
        self._inside = False

    def __enter__(self) -> Guided:
        self._caught = Bottleneck(self.denoiser)
        self._caught.__enter__()
        network = self.denoiser.network
        self._handles = [
            network.register_forward_pre_hook(self._fall_back, with_kwargs=True),
            network.register_forward_hook(self._correct, with_kwargs=True),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        self._caught.__exit__()
        for handle in self._handles:
            handle.remove()

    def _same(self, condition: Condition, known: Condition) -> Tensor:
        """(n, k): whether row i of a condition is known row j. Equal prompts have bit-equal embeddings."""
        result = None
        for name, value in known.items():
            row = condition[name].flatten(1)[:, None] - value.flatten(1)[None]
            equal = row.abs().amax(-1) <= 1e-5 * value.abs().amax()  # rows of different batches may differ by rounding
            result = equal if result is None else result & equal
        return cast(Tensor, result)

    def _fall_back(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._inside:
            return None
        asking = self._same({name: kwargs[name] for name in self._asking}, self._asking).any(1)
        if not bool(asking.any()):
            return None
        changed = dict(kwargs)
        for name, value in self._anchor.items():
            changed[name] = kwargs[name].clone()
            changed[name][asking] = value[0].to(kwargs[name].dtype)
        return args, changed

    def _correct(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if self._inside:
            return None
        self._inside = True
        try:
            return self._corrected(args, kwargs, output)
        finally:
            self._inside = False

    @torch.no_grad()
    def _corrected(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        x = args[0] if args else kwargs["sample"]
        level = args[1] if len(args) > 1 else kwargs["timestep"]
        t = torch.as_tensor(level, device=x.device).reshape(-1).expand(len(x)).round().long()
        result = output[0] if isinstance(output, tuple) else output.sample
        empty = self._same({name: kwargs[name] for name in self._empty}, self._empty)[:, 0]
        free, inner = result, cast(Tensor, self._caught.last)
        if not bool(empty.all()):  # other prompts: the head and the difference need the empty prompt's word as well
            free = self.denoiser.predict(x, t, repeat(self._empty, len(x)))
            inner = cast(Tensor, self._caught.last)
        rho = self.head(pooled(inner, free), log_snr(self.denoiser, t))
        k = self.strength(rho).clamp(0, self.limit).to(result.dtype)
        corrected = result.clone()
        for index in range(k.shape[1]):
            active = (k[:, index] > NEGLIGIBLE).nonzero()[:, 0]
            if len(active):
                concept = repeat(rows(self._concepts, slice(index, index + 1)), len(active))
                away = free[active] - self.denoiser.predict(x[active], t[active], concept)
                corrected[active] += k[active, index].view(-1, *(1,) * (x.ndim - 1)) * away
        corrected_share = float((k > NEGLIGIBLE).any(1).float().mean())
        self.trace.steps.append((int(t[0]), tuple(k.mean(0).tolist()), corrected_share))
        return (corrected, *output[1:]) if isinstance(output, tuple) else type(output)(sample=corrected)


def constant(strength: float) -> Strength:
    """``k`` the same everywhere: the rule of ESD and of plain negative guidance, for comparison."""
    return lambda rho: torch.full_like(rho, strength)
