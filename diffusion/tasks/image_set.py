r"""Images to be forgotten: what they are, and the multipliers that forget them where images are all there is.

Data x^1 … x^n, q their law, image i present with share pi_i (repeats/n), q_i the point mass at it. ForwardKL asks for a
-log p of at least b_i nats at image i; among densities on the data the optimum puts (pi_i - lam_i)/(1 - L), L = sum
lam_i, on image i, hence ::

    lam_i = [ pi_i - (1 - L) e^{-b_i} ]_+,    V = sum_i pi_i log( pi_i (1 - L)/(pi_i - lam_i) ) + (1 - Pi) log(1 - L),

(Pi the sum of the pi_i with lam_i > 0): always in [0, pi_i], and the larger the more often an image was seen. In a
network -log p is bounded by the negative ELBO at the image; its zero is not known, its changes are, so levels are
stated as nats above the present ones, b_i = -log pi_i + level_i. Source: theory, "Forgetting images".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.pipelines import Denoiser
from duality.point_masses import WaterFilling, water_filling

MOST = 64


@dataclass(frozen=True)
class Images:
    """What to forget, and the data that is retained.

    Args:
        forget: (m, ...) images as the network sees them (latents, or pixels in [-1, 1]), at most 64.
        shares: (m,) pi_i: the part of the data (of its prompt) that is image i. A number serves all.
        data: (n, ...) training data; the images may be among them or not, rows equal to one are set ``aside``: their
            part is known from the shares. With samples of q instead, leave out those that are copies.
        forget_prompts, data_prompts: (m,), (n,); left out, empty. Each image is forgotten under its own prompt, among
            the data of that prompt; data under other prompts are held to the base model.

    Raises:
        ValueError: naming the argument, what was given and what is needed.
    """

    forget: Tensor
    shares: Any
    data: Tensor
    forget_prompts: tuple[str, ...] = ()
    data_prompts: tuple[str, ...] = ()
    groups: tuple[tuple[int, ...], ...] = field(init=False, repr=False)  # images of one prompt
    aside: Tensor = field(init=False, repr=False)  # (n,) whether a row of the data is one of its prompt's images

    def __post_init__(self) -> None:
        m, n = len(self.forget), len(self.data)
        if not 1 <= m <= MOST or n < 1:
            raise ValueError(f"forget must hold 1 to {MOST} images and data at least one, got {m} and {n}")
        if self.forget.shape[1:] != self.data.shape[1:]:
            raise ValueError(
                f"forget and data must have images of one shape, got {tuple(self.forget.shape[1:])} and "
                f"{tuple(self.data.shape[1:])}"
            )
        if not bool(torch.isfinite(self.forget).all() and torch.isfinite(self.data).all()):
            raise ValueError("forget and data must be finite")
        shares = np.array(np.broadcast_to(np.asarray(self.shares, float), (m,)))
        object.__setattr__(self, "shares", shares)
        object.__setattr__(self, "forget_prompts", tuple(self.forget_prompts) or ("",) * m)
        object.__setattr__(self, "data_prompts", tuple(self.data_prompts) or ("",) * n)
        if len(self.forget_prompts) != m or len(self.data_prompts) != n:
            raise ValueError(
                f"prompts: one for each of {m} images and {n} data is needed, got {len(self.forget_prompts)} and "
                f"{len(self.data_prompts)}"
            )
        missing = set(self.forget_prompts) - set(self.data_prompts)
        if missing:
            raise ValueError(f"data must hold samples under every prompt of an image, got none under {sorted(missing)}")
        object.__setattr__(self, "groups", grouped(self.forget_prompts))
        check_shares(shares, self.forget_prompts)
        object.__setattr__(self, "aside", self._copies())
        others = {p for p, aside in zip(self.data_prompts, self.aside.tolist(), strict=True) if not aside}
        alone = set(self.forget_prompts) - others
        if alone:
            raise ValueError(f"data must hold more than the images themselves, got nothing else under {sorted(alone)}")

    def _copies(self) -> Tensor:
        result = torch.zeros(len(self.data), dtype=torch.bool)
        for image, prompt in zip(self.forget, self.forget_prompts, strict=True):
            result |= alike(self.data, image) & torch.tensor([some == prompt for some in self.data_prompts])
        return result

    def check(self, denoiser: Denoiser) -> None:
        """ValueError where the images are not of the size that the network takes."""
        if tuple(self.forget.shape[1:]) != denoiser.sample_shape:
            raise ValueError(
                f"forget must have images of shape {denoiser.sample_shape}, got {tuple(self.forget.shape[1:])}"
            )

    def start(self, levels: np.ndarray) -> np.ndarray:
        """The closed form for levels (m,) in nats above the present negative ELBO, prompt by prompt."""
        result = np.zeros(len(self.shares))
        for group, answer in zip(self.groups, exact(self, levels), strict=True):
            result[list(group)] = answer.multipliers
        return result


def grouped(prompts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Rows by prompt, prompts in the order in which they first come."""
    return tuple(tuple(i for i, p in enumerate(prompts) if p == name) for name in dict.fromkeys(prompts))


def check_shares(shares: np.ndarray, prompts: Sequence[str]) -> None:
    """ValueError where the images' shares (m,) cannot be parts of the data of their prompts."""
    if not (shares > 0).all() or any(shares[list(group)].sum() >= 1 for group in grouped(prompts)):
        raise ValueError(
            f"shares must be positive and add up to less than 1 under each prompt, got {np.asarray(shares).tolist()}"
        )


def alike(samples: Tensor, image: Tensor) -> Tensor:
    """(n,): which samples (n, ...) are the image; latents may differ in the last digits, by the batch they came
    from."""
    return (samples - image).abs().flatten(1).amax(1) <= 1e-4 * image.abs().max().clamp_min(1.0)


def exact(images: Images, levels: np.ndarray) -> list[WaterFilling]:
    """The answer where images are all there is, one for the images of each prompt; levels (m,), nats above present."""
    return [
        water_filling(images.shares[group], levels[group] - np.log(images.shares[group]))
        for group in map(list, images.groups)
    ]
