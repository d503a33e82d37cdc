r"""Forgetting images: one constraint and one multiplier each, ForwardKL by the alternating algorithm.

    min KL(q‖p)  s.t.  L_i(f) - L_i(T) ≥ level_i,    L_i = 1/2 E int |eps - eps_f(x_t^i)|^2 d log SNR    (nats)

    f    <- steps on  (1 - Pi) E_m[ w_a |f - T|^2 ]
                      + sum_i E_m[ w_i ( (pi_i - lam_i)_+ |f - T|^2 + 2 lam_i <f - T, y_i - T> ) ]
    lam  <- lam + gain · (pi_i/max(level_i, 1)) · (miss + damping · (miss - miss before)), kept in [0, reach · pi_i]

miss = level - estimate, at most the level either way, times what is left of the optimiser's rate; f the student's and
T the frozen teacher's noise prediction, y_i the noise towards image i. Half of the levels are spread evenly over log
SNR, as surprise is measured, half evenly over the schedule, whose middle decides which image a draw becomes: nats are
to be had most cheaply in the last details, and a network that pays there alone still draws the image, a little off.
(No spread moves the minimiser among all functions; it does among a network's.) q = sum_i pi_i q_i + (1 - Pi) r,
states from the defensive mixture m of a draw of the rest r and an image (:mod:`.mixture`), so that one forward pass
serves both terms. It is the Lagrangian KL(q‖p) - lam·KL(q_i‖p) in score form up to a constant, with T for the noisy y
where T is its mean. Image i is known to be a part pi_i of q: what that adds to retention and what the constraint
takes away meet at the same state, and every term is convex in f. (With copies met by chance among the data, the sum
is so in the mean only.)

Among all densities lam_i ≤ pi_i. A network that has to move its neighbours along pays more than that for a nat, and its
multipliers may rise further; what would be concave then, -(lam_i - pi_i)|f - T|^2, is replaced by its tangent at the
teacher, zero: an upper bound of the Lagrangian, as in the convex-concave procedure. The start is the closed form
(:mod:`.images`). Estimates are made under common noise. A network answers to a multiplier some rounds late, and plain
ascent then swings around the levels: multipliers are moved by a proportional-integral controller (cooper's nuPI), whose
``damping`` looks ahead along the last change. Multipliers live in the saved state.

Source: the paper's experiment on CelebA-HQ (arXiv:2605.30825); theory, "Forgetting images".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import duality as du
from duality import primal_dual as pd

from ..batches import spread_levels
from ..lora import add_student, teacher
from ..models import Condition, Denoiser, rows
from ..parallel import WHOLE, Part
from ..training import AFTER, Fit, Progress, Trainer
from .base import Outcome
from .dual import Scaled
from .images import Images, gained
from .mixture import Mixed, mixed
from .rounds import Rounds, ends_of
from .surprise import span, spread_log_snr


def image_terms(f: Tensor, said: Tensor, states: Mixed, share: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Retention and constraint, two scalars with a gradient in f (n, ...).

    ``share`` (n,): Pi, the part of the data of a row's prompt that is images; ``ratio`` (n,): lam_i/pi_i of its image.
    """
    shape = (-1, *(1,) * (f.ndim - 1))
    moved = f - said
    at_image = share * states.forgotten_weight
    everywhere = (1 - share) * states.kept_weight + at_image
    retention = everywhere.view(shape) * moved.square()
    curved, pushed = (at_image * ratio.clamp_max(1.0)).view(shape), (at_image * ratio).view(shape)
    constraint = curved * moved.square() - 2 * pushed * moved * (states.forgotten_target - said)
    return retention.mean(), -constraint.mean()


@dataclass(frozen=True)
class Pairs:
    """Which draw meets which image: (n,) rows of the data, (n,) images, (n,) shares of all images of its prompt."""

    data: Tensor
    image: Tensor
    share: Tensor


class Pairing:
    """Draws rows of the data, and for each an image of its prompt, with probability pi_i / Pi.

    ``among`` (n,): which rows may meet an image. A share of the batch is for data whose prompt has no image, where
    there are such: they meet none (share 0).
    """

    def __init__(self, images: Images, among: Tensor, settings: Fit) -> None:
        self.images = images
        place = {images.forget_prompts[group[0]]: index for index, group in enumerate(images.groups)}
        self._group = torch.tensor([place.get(prompt, -1) for prompt in images.data_prompts])
        self._near = ((self._group >= 0) & among).nonzero()[:, 0]
        self._rest = (self._group < 0).nonzero()[:, 0]
        self._kept = round(settings.batch * settings.retain_share) if len(self._rest) else 0
        self._near_count = settings.batch - self._kept

    def __call__(self, generator: torch.Generator) -> Pairs:
        near = self._near[torch.randint(len(self._near), (self._near_count,), generator=generator)]
        chance = torch.rand(self._near_count, generator=generator, dtype=torch.float64)
        image, share = torch.zeros(len(near), dtype=torch.long), torch.zeros(len(near), dtype=torch.float64)
        for index, group in enumerate(self.images.groups):
            here = self._group[near] == index
            cumulative = torch.tensor(self.images.shares[list(group)], dtype=torch.float64).cumsum(0)
            chosen = torch.searchsorted(cumulative, chance[here] * cumulative[-1], right=True)
            image[here] = torch.tensor(group)[chosen.clamp_max(len(group) - 1)]
            share[here] = cumulative[-1]
        if not self._kept:
            return Pairs(near, image, share)
        other = self._rest[torch.randint(len(self._rest), (self._kept,), generator=generator)]
        none = torch.zeros(self._kept)
        return Pairs(torch.cat([near, other]), torch.cat([image, none.long()]), torch.cat([share, none.double()]))


@dataclass(frozen=True)
class ForgetImages:
    """``mixture``: beta, the part of states that is drawn around images. ``repeats``: noises of a level's estimate.
    ``reach``: how far above its share a multiplier may rise, at least 1. ``damping``: of the dual steps, 0 for plain
    ascent. ``extra``: rounds at most after the last step of the settings, at a tenth of the rate, while a level is not
    met within one standard error, or overshot by more under a multiplier.

    The rest as for :class:`diffusion.methods.primal_dual.PrimalDual`; a gain of 1 lets a miss as large as the level
    itself move a multiplier through its whole range.
    """

    inner: int = 20
    warmup: int = 1
    gain: float = 0.4
    damping: float = 4.0
    extra: int = 20
    mixture: float = 0.25
    reach: float = 10.0
    noise_levels: int = 20
    repeats: int = 4
    patience: int | None = None

    def fit(
        self,
        denoiser: Denoiser,
        images: Images,
        levels: Any,
        settings: Fit,
        *,
        checkpoint: Path | None = None,
        every: int = 100,
        progress: Progress | None = None,
    ) -> Outcome:
        """``levels``: a number or (m,), nats above the present surprise at each image; see ``images.as_unseen``."""
        run = Forgetting(self, denoiser, images, levels, settings)
        parameters = add_student(denoiser, settings.rank, settings.seed)
        trainer = Trainer(
            denoiser.network,
            parameters,
            run.objective,
            settings,
            checkpoint=checkpoint,
            every=every,
            progress=progress,
            state=run.rounds,
        )
        return run.rounds.run(trainer)


class Forgetting:
    """One run: objective, measurement and rounds."""

    def __init__(self, method: ForgetImages, denoiser: Denoiser, images: Images, levels: Any, settings: Fit) -> None:
        images.check(denoiser)
        if not 0 < method.mixture < 1 or method.repeats < 2:
            raise ValueError(
                f"mixture must lie strictly between 0 and 1 and repeats be at least 2, got {method.mixture} and "
                f"{method.repeats}"
            )
        if not method.reach >= 1:
            raise ValueError(f"reach must be at least 1, got {method.reach}")
        if method.damping < 0 or method.extra < 0:
            raise ValueError(f"damping and extra must be at least 0, got {method.damping} and {method.extra}")
        given = np.asarray(levels, float)
        if given.shape not in ((), (len(images.forget),)):
            raise ValueError(f"levels: shape {given.shape} given for {len(images.forget)} images; one, or one for each")
        self.method, self.denoiser, self.images, self.settings = method, denoiser, images, settings
        self.problem = du.ForwardKL(np.broadcast_to(given, (len(images.forget),)).copy())
        scale = images.shares / np.maximum(self.problem.levels, 1.0)
        ascent = pd.NuPI(method.gain, proportional=method.damping) if method.damping else pd.Ascent(method.gain)
        start = images.start(self.problem.levels)
        ends = ends_of(method.inner, settings.steps)
        further = [settings.steps + method.inner * (k + 1) for k in range(method.extra)]
        every = [*ends, *further]
        decays = [max(AFTER, settings.decayed(end)) for end in every]
        # A miss counts as the level itself at most.
        rule = Scaled(ascent, scale, method.warmup, limit=images.shares, decays=decays)
        self.rounds = Rounds(self.problem, rule, start, self.project, self.measure, every, method.patience, len(ends))
        self.pairing = Pairing(images, ~images.aside, settings)
        distinct = sorted(set(images.data_prompts))
        self._conditions = denoiser.condition(distinct)
        self._row = torch.tensor([distinct.index(prompt) for prompt in images.data_prompts])
        _, low, high = span(denoiser)
        self._nats = 0.5 * (high - low) * images.forget[0].numel()
        self._device = next(denoiser.network.parameters()).device

    def project(self, multipliers: np.ndarray) -> np.ndarray:
        return np.clip(multipliers, 0.0, self.method.reach * self.images.shares)

    def condition(self, pairs: Pairs) -> Condition:
        return rows(self._conditions, self._row[pairs.data])

    def states(self, pairs: Pairs, generator: torch.Generator) -> tuple[Mixed, Tensor]:
        """States and noise levels (n,)."""
        kept = self.images.data[pairs.data].to(self._device)
        forgotten = self.images.forget[pairs.image].to(kept)
        half = len(kept) // 2
        some = spread_levels(self.denoiser, half, generator)
        t = torch.cat([some, spread_log_snr(self.denoiser, len(kept) - half, generator)]).to(self._device)
        share = torch.where(pairs.share > 0, self.method.mixture, 0.0).to(kept)
        return mixed(self.denoiser, kept, forgotten, t, share, generator), t

    def objective(self, _step: int, generator: torch.Generator, part: Part = WHOLE) -> Tensor:
        pairs = self.pairing(generator)
        states, t = self.states(pairs, generator)
        mine, states = part.rows(len(t)), states.part(part)
        t, condition = t[mine], rows(self.condition(pairs), mine)
        # Noise predictions: at levels spread over log SNR the terms are KL(q‖p) and lam·KL(q_i‖p) as measured.
        denoiser, x = self.denoiser, states.x
        with teacher(denoiser):
            said = denoiser.epsilon(denoiser.predict(x, t, condition), x, t)
        f = denoiser.epsilon(denoiser.predict(x, t, condition), x, t)
        states = replace(states, forgotten_target=denoiser.epsilon(states.forgotten_target, x, t))
        ratio = torch.tensor(self.rounds.multipliers / self.images.shares)[pairs.image]
        retention, constraint = image_terms(f, said, states, pairs.share[mine].to(f), ratio[mine].to(f))
        part.note(retention=self._nats * retention, constraint=self._nats * constraint)
        return retention + constraint

    def measure(self, _round: int) -> tuple[np.ndarray, np.ndarray]:
        method = self.method
        return gained(self.denoiser, self.images, method.noise_levels, method.repeats, self.settings.seed)
