r"""Forgetting images by their exact answer: one constraint each, ForwardKL, fitted by regression.

::

    f* = T + E_p[eps | x_t] - E_q[eps | x_t],    min_f E_m |f - f*|²

q the law of images and data (:mod:`diffusion.methods.images.kernel_density`), p the optimum on it for levels b: the
images' masses are e^{-b_i}, or what they were where that is more, all else is as it was, up to a factor
(:mod:`duality.point_masses`). T is the frozen base model's noise prediction, m holds states around data and around
images. How likely a state is to come from an image is read off T, as far as T tells, since kernels at the data are a
poor density in many dimensions. Were T the score of q, f* would be that of p; what T has learned otherwise, above all
between the data, is kept as it is.

f* differs from T where a noised image is not yet told from other images, and there alone: below that noise level p
gives the image's neighbourhood, small as its mass is, to the image, as q does. The Lagrangian of the same problem
(:mod:`diffusion.methods.images.primal_dual`) weighs states by p, under which the neighbourhood of a forgotten image is
hardly seen, and a network is slow to learn there; f* is known, so states may be weighed as one likes.

The gain in nats is b where T is exact (the difference of two cross entropies, an integral over log SNR). A network's
is not, so what is asked, b', moves by what is measured, round by round, ::

    b' <- b' + gain · (miss + damping · (miss - miss before)),    miss = (1 + margin) level - estimate,

with cooper's nuPI, times what is left of the optimiser's rate (at least 0.4), and multipliers with it: lam = lam*(b'),
which is never above pi. As lam is close to pi whatever is asked, passing a level takes nothing from the rest: rounds
after the last step go on only while one is not met.

Source: theory, "Forgetting images"; "Into a LoRA", (a), for targets by regression.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.methods.base import ImageFitContext, Outcome
from diffusion.methods.dual_steps import Scaled
from diffusion.methods.images.base import ImageFit, ImageRun
from diffusion.methods.images.kernel_density import law_of
from diffusion.methods.images.pairing import Pairs
from diffusion.runtime.distributed import WHOLE, Part
from diffusion.runtime.precision import doubled
from diffusion.tasks.image_set import Images, exact
from duality import primal_dual as pd


@dataclass(frozen=True)
class TiltedImages(ImageFit):
    """``kernels``: samples at most that stand for all else under a prompt, every so many of the data. A ``gain`` of 1
    asks for as many nats more as are missing. ``margin``: the part of a level that is aimed at beyond it, since levels
    are bounds on one side and a fit ends a little off what it aims at, on either.
    """

    warmup: int = 4
    gain: float = 0.5
    repeats: int = 8
    kernels: int = 2000
    margin: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernels < 1:
            raise ValueError(f"kernels must be at least 1, got {self.kernels}")
        if not self.margin >= 0:
            raise ValueError(f"margin must be at least 0, got {self.margin}")

    def run(self, context: ImageFitContext) -> Tilting:
        return Tilting(self, context)


class AskingImages:
    """A dual rule that moves the levels ``asked`` (m,), nats above the present, and solves again."""

    def __init__(self, rule: pd.DualRule, images: Images, levels: np.ndarray, margin: float) -> None:
        self.rule, self.images, self.asked, self.beyond = rule, images, np.array(levels, float), margin * levels

    def update(self, _multipliers: np.ndarray, misses: np.ndarray) -> np.ndarray:
        self.asked = np.maximum(self.rule.update(self.asked, misses + self.beyond), 0.0)
        return self.images.start(self.asked)

    def state_dict(self) -> dict[str, Any]:
        return {"asked": self.asked.tolist(), "rule": self.rule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.asked = np.array(state["asked"], float)
        self.rule.load_state_dict(state["rule"])


class Tilting(ImageRun):
    """One run: objective and dual rule."""

    method: TiltedImages
    # A nat more is asked for a nat more, near enough: dual steps need not be as small as those of prices.
    least = 0.4
    # Multipliers are the shares, near enough, whatever is asked: to pass a level takes nothing from the rest.
    one_sided = True

    def __init__(self, method: TiltedImages, context: ImageFitContext) -> None:
        super().__init__(method, context)
        images = context.images
        prompts = np.array(images.data_prompts)
        self.laws = []
        self._group = torch.zeros(len(images.forget), dtype=torch.long)
        for index, group in enumerate(images.groups):
            here = torch.from_numpy(prompts == images.forget_prompts[group[0]]) & ~images.aside
            forget, rest = (some.to(self._device) for some in (images.forget[list(group)], images.data[here]))
            self.laws.append(law_of(forget, rest, method.kernels))
            self._group[list(group)] = index

    def rule(self) -> Scaled:
        levels = self.problem.levels
        self.asked = AskingImages(self.method.ascent(), self.images, levels, self.method.margin)
        # A miss counts as the level itself at most, as for multipliers.
        return Scaled(self.asked, np.ones(len(levels)), self.method.warmup, np.maximum(levels, 1.0), self.decays)

    def project(self, multipliers: np.ndarray) -> np.ndarray:
        return multipliers

    def measure(self, round_: int) -> tuple[np.ndarray, np.ndarray]:
        # Beside the levels of a round, what was asked in it: saved and resumed with the rounds.
        asked, pool = torch.from_numpy(self.asked.asked.copy())[None], self.rounds.pool
        pool["asked"] = torch.cat([pool["asked"], asked]) if "asked" in pool else asked
        # New noise in each round: what is asked then follows the mean over rounds, not the error of one noise.
        return self.estimate(self.settings.seed + 1_000 * (round_ + 1))

    def outcome(self, outcome: Outcome) -> Outcome:
        return replace(outcome, asked=np.vstack([self.rounds.pool["asked"].numpy(), self.asked.asked]))

    def moved(self, x: Tensor, t: Tensor, said: Tensor, pairs: Pairs) -> Tensor:
        """``f* - T`` (n, ...) at states (n, ...) where T is ``said``; zero under a prompt without images."""
        signal, noise = (doubled(value.reshape(-1, 1).to(x)) for value in self.denoiser.schedule(t))
        flat, result = doubled(x.flatten(1)), torch.zeros_like(x)
        # Pure noise says nothing, and moves by signal times something finite: nothing.
        clean = (flat - noise * doubled(said.flatten(1))) / signal.clamp_min(1e-6)
        answers = exact(self.images, self.asked.asked)
        for index, (law, group, answer) in enumerate(zip(self.laws, self.images.groups, answers, strict=True)):
            here = ((self._group[pairs.image] == index) & (pairs.share > 0)).nonzero()[:, 0].to(flat.device)
            before, after = (
                torch.from_numpy(masses).to(flat)
                for masses in (np.log(self.images.shares[list(group)]), answer.log_masses)
            )
            change = law.moved(flat[here], signal[here], noise[here], clean[here], before, after)
            result[here.to(x.device)] = -(signal[here] / noise[here] * change).to(x).view(-1, *x.shape[1:])
        return result

    def objective(self, _step: int, generator: torch.Generator, part: Part = WHOLE) -> Tensor:
        step = self.step(generator, part)
        return (step.f - step.said - self.moved(step.states.x, step.t, step.said, step.pairs)).square().mean()
