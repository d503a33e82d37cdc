r"""Integrals over noise levels that measure a network in nats, by common noise.

::

    negative ELBO L(x)    = 1/2 E int |eps - eps_f(x_t)|^2 d log SNR          = -log f(x) + const of x   (the ELBO)
    divergence    D(x)    = 1/2 E int |eps_f(x_t) - eps_T(x_t)|^2 d log SNR,  E_{x ~ f} D(x) = KL(f‖T)
    loss          L(x; f) - L(x; T),                                          E_{x ~ q_i} = KL(q_i‖f) - KL(q_i‖T)

and `E_{x ~ T} D(x) = KL(T‖f)`. f the student, T the frozen base model; each is one number per sample, (n,), double. The
integral is that of :mod:`diffusion.ratios.noise_integral`: two networks (or one network at two times) are compared
under the same noise, without which its variance hides a constraint of a few nats.
Source: Kingma et al., Variational Diffusion Models (NeurIPS 2021); theory, "Forgetting images".
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from torch import Tensor

from diffusion.pipelines import Condition, Denoiser, repeat, rows
from diffusion.ratios.noise_integral import integrate
from diffusion.runtime.precision import squares
from diffusion.training.lora import base_model

# A context in which the network predicts as the base model; outside of it, as the student.
Plain = Callable[[], AbstractContextManager[Any]]


def negative_elbo(denoiser: Denoiser, samples: Tensor, condition: Condition, *, levels: int, seed: int) -> Tensor:
    """``L(x)`` (n,) of the network as it stands (adapters on or off), in nats up to a constant per sample."""

    def error(x: Tensor, t: Tensor, eps: Tensor, part: slice) -> Tensor:
        return squares(eps - denoiser.epsilon(denoiser.predict(x, t, rows(condition, part)), x, t))

    return integrate(denoiser, samples, error, levels=levels, seed=seed)


def divergence(
    denoiser: Denoiser,
    samples: Tensor,
    condition: Condition,
    *,
    levels: int,
    seed: int,
    plain: Plain | None = None,
    based_on: Condition | None = None,
) -> Tensor:
    """``D(x)`` (n,) between student and base model; its mean over samples of the student is KL(student‖base model).

    ``plain``: what makes the student the base model; left out, its adapters off or its old weights in. ``based_on``:
    one row, what the base model is asked where that is not what the student is.
    """
    plain = plain or partial(base_model, denoiser)

    def error(x: Tensor, t: Tensor, _eps: Tensor, part: slice) -> Tensor:
        some = rows(condition, part)
        f = denoiser.epsilon(denoiser.predict(x, t, some), x, t)
        with plain():
            base = some if based_on is None else repeat(based_on, len(x))
            said = denoiser.epsilon(denoiser.predict(x, t, base), x, t)
        return squares(f - said)

    return integrate(denoiser, samples, error, levels=levels, seed=seed)


def loss(
    denoiser: Denoiser,
    samples: Tensor,
    condition: Condition,
    *,
    levels: int,
    seed: int,
    plain: Plain | None = None,
    based_on: Condition | None = None,
) -> Tensor:
    """``L(x; student) - L(x; base_model)`` (n,): the log likelihood that the student has given up at each sample.

    ``plain``, ``based_on``: as in :func:`divergence`.
    """
    plain = plain or partial(base_model, denoiser)

    def error(x: Tensor, t: Tensor, eps: Tensor, part: slice) -> Tensor:
        some = rows(condition, part)
        f = denoiser.epsilon(denoiser.predict(x, t, some), x, t)
        with plain():
            base = some if based_on is None else repeat(based_on, len(x))
            said = denoiser.epsilon(denoiser.predict(x, t, base), x, t)
        return squares(eps - f) - squares(eps - said)

    return integrate(denoiser, samples, error, levels=levels, seed=seed)
