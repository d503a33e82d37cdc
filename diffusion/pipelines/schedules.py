r"""Noise levels: how a state is mixed from a sample and noise, and what a network's raw output says of the noise.

With ``x_t = signal x_0 + noise eps`` every kind of output is, at fixed ``x_t``, affine in ``eps``::

    output        is                       d output / d eps     signal, noise
    epsilon       eps                      1                    sqrt(abar), sqrt(1 - abar)
    v             signal eps - noise x_0   1 / signal           sqrt(abar), sqrt(1 - abar)
    sample        x_0                      -noise / signal      sqrt(abar), sqrt(1 - abar)
    flow          eps - x_0                1 / signal           1 - sigma, sigma

(for v because signal^2 + noise^2 = 1, for flow because signal + noise = 1), so differences between two conditions, and
with them every guidance rule ``q + k (q - q_i)``, can be taken on raw outputs. The score is ``-eps / noise``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """One kind of output; every argument is shaped to broadcast, ``signal`` and ``noise`` as (n, 1, ...)."""

    target: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # x_0, eps, signal, noise -> output
    epsilon: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # output, x_t, signal, noise -> eps
    slope: Callable[[Tensor, Tensor], Tensor]  # signal, noise -> d output / d eps at fixed x_t


PREDICTIONS = {
    "epsilon": Prediction(
        lambda x0, eps, signal, noise: eps,
        lambda output, x, signal, noise: output,
        lambda signal, noise: torch.ones_like(signal),
    ),
    "v_prediction": Prediction(
        lambda x0, eps, signal, noise: signal * eps - noise * x0,
        lambda output, x, signal, noise: signal * output + noise * x,
        lambda signal, noise: 1 / signal,
    ),
    "sample": Prediction(
        lambda x0, eps, signal, noise: x0,
        lambda output, x, signal, noise: (x - signal * output) / noise,
        lambda signal, noise: -noise / signal,
    ),
    "flow_prediction": Prediction(
        lambda x0, eps, signal, noise: eps - x0,
        lambda output, x, signal, noise: x + signal * output,
        lambda signal, noise: 1 / signal,
    ),
}


@dataclass(frozen=True)
class Noising:
    """The noise levels t = 0 .. T - 1 of a scheduler, from least to most noise.

    ``signal``, ``noise``, ``timesteps``: (T,), double; ``timesteps`` is what the network is told at each level.
    """

    signal: Tensor
    noise: Tensor
    timesteps: Tensor
    prediction_type: str

    @property
    def levels(self) -> int:
        return len(self.signal)

    @property
    def prediction(self) -> Prediction:
        return PREDICTIONS[self.prediction_type]

    def timestep(self, t: Tensor) -> Tensor:
        """What the network is told at levels ``t`` (n,): whole numbers where the scheduler counts, else float32."""
        told = self.timesteps.float() if self.prediction_type == "flow_prediction" else self.timesteps.long()
        return told.to(t.device)[t]

    def level(self, timestep: Tensor) -> Tensor:
        """The levels (n,) nearest to timesteps (n,), which samplers may place between two levels."""
        table = self.timesteps.float().to(timestep.device)  # not every device has double precision
        above = torch.searchsorted(table, timestep.to(table.dtype).contiguous()).clamp(1, len(table) - 1)
        nearer_below = timestep - table[above - 1] <= table[above] - timestep
        return torch.where(nearer_below, above - 1, above)


def variance_preserving(scheduler: Any) -> Noising:
    """``signal = sqrt(abar_t)``, ``noise = sqrt(1 - abar_t)``, from a scheduler's own table of cumulative products.

    Raises ``ValueError`` for schedulers without such a table, and for kinds of output that are not known.
    """
    kind = str(scheduler.config.get("prediction_type", "epsilon"))
    table = getattr(scheduler, "alphas_cumprod", None)
    if table is None or kind not in ("epsilon", "v_prediction", "sample"):
        raise ValueError(
            f"scheduler must have alphas_cumprod and predict epsilon, v_prediction or sample: "
            f"{type(scheduler).__name__} has {'no table' if table is None else 'a table'} and predicts {kind}"
        )
    alpha_bar = cast(Tensor, table).double().cpu()
    return Noising(alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), torch.arange(len(alpha_bar)).double(), kind)


def rectified_flow(scheduler: Any) -> Noising:
    """``signal = 1 - sigma``, ``noise = sigma``, at the sigmas that a flow-matching scheduler trains on.

    They are ``shift s / (1 + (shift - 1) s)`` at ``s = 1/T .. 1``, unless the shift depends on the size of the image
    (then only the sampler applies it). The scheduler's own ``sigmas`` are those of its last sampling run, so the table
    is made anew. Raises ``ValueError`` for schedulers of another kind.
    """
    config = scheduler.config
    is_flow = hasattr(scheduler, "scale_noise") or config.get("prediction_type") == "flow_prediction"
    if not is_flow or config.get("invert_sigmas"):
        raise ValueError(
            f"scheduler must be a flow-matching one, with sigma from 1 to 0: got {type(scheduler).__name__}"
        )
    count = int(config.num_train_timesteps)
    s = torch.arange(1, count + 1).double() / count
    shift = 1.0 if config.get("use_dynamic_shifting") else float(config.get("shift") or config.get("flow_shift") or 1.0)
    sigma = shift * s / (1 + (shift - 1) * s)
    return Noising(1 - sigma, sigma, sigma * count, "flow_prediction")


def dynamic_shift(scheduler: Any, tokens: int) -> float:
    """``mu`` for an image of so many tokens, on the line through the scheduler's two points, as its pipelines do."""
    config = scheduler.config
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (high - low) / (many - few)
    return float(tokens * slope + low - slope * few)
