"""A small score network on mixtures: trained on optimal targets, and what it loses against the exact ones.

Two ways to train it: *tilted denoising* at the multipliers that ``toy.solve`` found, and the *alternating algorithm*,
in which ``NetworkPlayer`` takes a few optimiser steps on the Lagrangian and reports the levels that the network itself
reaches. Needs torch: ``pip install unlearning-duality[torch]``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

try:
    import torch
except ImportError as error:
    raise ImportError("toy.networks needs torch: pip install 'unlearning-duality[torch]'") from error

import duality as du
from toy.mixtures import Array, GaussianMixture, as_mixtures, moments
from toy.noised import NoisedMixture, noised_target
from toy.samplers import Score, sample_ddim
from toy.solving import Problem, ToySolution, log_ratios_at


def noise_levels(steps: int = 48, reach: float = 8.0) -> Array:
    """alpha_bar of a chain with equal steps in log-SNR from -reach to reach nats, then the data, (steps + 1,)."""
    if steps < 2:
        raise ValueError(f"steps: at least 2 are needed, given {steps}")
    return np.append(1 / (1 + np.exp(-np.linspace(-reach, reach, steps))), 1.0)


class ScoreNetwork(torch.nn.Module):
    """eps_theta(x, alpha_bar) = the best linear guess + sqrt(alpha_bar) times a multilayer perceptron.

    The linear guess, sqrt(1-alpha_bar) (x - sqrt(alpha_bar) mean)/(alpha_bar variance + 1 - alpha_bar), is exact for
    N(mean, variance I); the perceptron sees x, scaled, and sines of the log-SNR.

    Args:
        mean, variance: (d,) and a number, of the data.
        width, depth: of its hidden layers, and their number.
        seed: of its first weights.
    """

    mean: torch.Tensor
    frequencies: torch.Tensor

    def __init__(self, mean: Array, variance: float, width: int = 64, depth: int = 3, seed: int = 0) -> None:
        super().__init__()
        if width < 1 or depth < 1:
            raise ValueError(f"width, depth: at least 1 is needed, given {width} and {depth}")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.variance = float(variance)
        self.register_buffer("frequencies", torch.tensor([0.1, 0.25, 0.5, 1.0]))
        d = len(mean)
        sizes = [d + 8, *[width] * depth]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers: list[torch.nn.Module] = []
            for a, b in itertools.pairwise(sizes):
                layers += [torch.nn.Linear(a, b), torch.nn.SiLU()]
            last = torch.nn.Linear(sizes[-1], d)
            torch.nn.init.zeros_(last.weight)
            torch.nn.init.zeros_(last.bias)
            self.layers = torch.nn.Sequential(*layers, last)

    def forward(self, x: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
        """Predicted noise, (n, d); alpha_bar (n,) inside (0, 1)."""
        level = alpha_bar[:, None]
        total = level * self.variance + 1 - level
        centred = x - level.sqrt() * self.mean
        log_snr = torch.log(level) - torch.log1p(-level)
        angle = log_snr * self.frequencies
        features = torch.cat([centred / total.sqrt(), torch.sin(angle), torch.cos(angle)], dim=1)
        return (1 - level).sqrt() * centred / total + level.sqrt() * self.layers(features)

    def score(self, x: Array, alpha_bar: float) -> Array:
        """-eps/sqrt(1 - alpha_bar) in NumPy, (n, d): what samplers take."""
        with torch.no_grad():
            points = torch.tensor(x, dtype=torch.float32)
            noise = self(points, torch.full((len(x),), float(alpha_bar)))
        return -noise.numpy().astype(np.float64) / np.sqrt(1 - alpha_bar)


def network_for(pretrained: GaussianMixture, width: int = 64, depth: int = 3, seed: int = 0) -> ScoreNetwork:
    """A network scaled to the mean and mean variance of q."""
    mean, covariance = moments(pretrained)
    return ScoreNetwork(mean, float(np.trace(covariance)) / pretrained.dimension, width, depth, seed)


def fit(
    network: ScoreNetwork,
    points: Array,
    probabilities: Array,
    steps: int,
    generator: torch.Generator,
    batch: int = 512,
    rate: float = 2e-3,
    optimizer: torch.optim.Optimizer | None = None,
) -> Array:
    """Denoising under weights: steps on `E_{x_0 ~ probabilities} |eps - eps_theta(x_t, t)|^2`, log-SNR uniform.

    Drawing x_0 with probability w/Z is the loss of tilted denoising with far less noise in its gradient than weighing
    it. The rate falls to zero along a cosine; an optimizer that is handed in keeps its. Returns the losses, (steps,).

    Args:
        points, probabilities: (n, d) draws of q, and (n,) their weights w/Z, summing to one.
    """
    own = optimizer is None
    used = torch.optim.Adam(network.parameters(), lr=rate) if optimizer is None else optimizer
    clean = torch.tensor(points, dtype=torch.float32)
    cumulative = torch.tensor(np.cumsum(probabilities) / np.sum(probabilities), dtype=torch.float64)
    losses = np.empty(steps)
    for step in range(steps):
        if own:
            used.param_groups[0]["lr"] = rate * 0.5 * (1 + np.cos(np.pi * step / steps))
        ticket = torch.rand(batch, generator=generator, dtype=torch.float64)
        picked = clean[torch.searchsorted(cumulative, ticket).clamp_max(len(clean) - 1)]
        level = torch.sigmoid(16 * torch.rand(batch, generator=generator) - 8)
        noise = torch.randn(picked.shape, generator=generator)
        noisy = level.sqrt()[:, None] * picked + (1 - level).sqrt()[:, None] * noise
        loss = (network(noisy, level) - noise).square().sum(dim=1).mean()
        used.zero_grad()
        loss.backward()
        used.step()
        losses[step] = float(loss.detach())
    return losses


def tilt_probabilities(answer: ToySolution, points: Array) -> Array:
    """w(rho(x); lam*)/sum w over draws x of q, (n, d) -> (n,): the weights of tilted denoising."""
    log_weight = answer.log_weight(points)
    weight = np.exp(log_weight - log_weight.max())
    return weight / weight.sum()


def fit_tilted(
    answer: ToySolution, network: ScoreNetwork, steps: int = 2000, seed: int = 0, pool: int = 40_000
) -> Array:
    """Train a network on the target of a solution by tilted denoising; the losses, (steps,).

    Args:
        pool: draws of q that are tilted. Its effective size, 1/sum p^2, is what the network learns from (RU's weights
            are unbounded; those of FU and LU are at most 1).
    """
    points = answer.pretrained.sample(pool, np.random.default_rng(seed))
    return fit(network, points, tilt_probabilities(answer, points), steps, torch.Generator().manual_seed(seed))


class Estimate(NamedTuple):
    """A mean and its standard error."""

    value: float
    stderr: float


def path_divergence(one: Score, other: Score, points: Array, levels: Array, generator: np.random.Generator) -> Estimate:
    """KL of the reverse processes of two scores: `1/2 int E |eps_1 - eps_2|^2 d log-SNR` under the first, nats.

    Where both scores are exact this is KL of the laws of x_0 (the path ratio depends on x_0 alone); otherwise it bounds
    it from above, up to what the levels leave out.

    Args:
        points: (n, d) draws of x_0 under the first law, noised afresh at every level.
        levels: increasing alpha_bar; those below 1 are the nodes of a trapezoid rule in log-SNR, whose error is of
            second order in their spacing.
    """
    inside = np.asarray(levels)[np.asarray(levels) < 1]
    log_snr = np.log(inside) - np.log1p(-inside)
    spacing = np.diff(log_snr)
    weights = 0.5 * (np.append(spacing, 0.0) + np.append(0.0, spacing))
    total = np.zeros(len(points))
    for weight, level in zip(weights.tolist(), inside.tolist(), strict=True):
        x = np.sqrt(level) * points + np.sqrt(1 - level) * generator.standard_normal(points.shape)
        # |eps_1 - eps_2|^2 = (1 - alpha_bar) |score_1 - score_2|^2
        total += 0.5 * weight * (1 - level) * np.square(one(x, level) - other(x, level)).sum(axis=1)
    return Estimate(float(total.mean()), float(total.std(ddof=1) / np.sqrt(len(total))))


class NetworkPlayer:
    """The player of ``duality.primal_dual``: a network that lowers the Lagrangian and measures its own levels.

    ``step`` is tilted denoising at the multipliers it is handed, for a few optimiser steps, from weights that are
    computed and kept outside the loss. For FU this is `E_q|.|^2 - sum lam_i E_{q_i}|.|^2`, NegGrad's loss with a solved
    weight. ``levels`` are those of the network as it is. RU: path KL(p_theta||q_i), at draws of the network. FU: path
    KL(q_i||p_theta), at draws of q_i. LU: the mean of l_i over draws of the network.

    Args:
        problem, draws, inner: with priors where they are needed; per estimate of the levels; optimiser steps a turn.
    """

    def __init__(
        self,
        problem: Problem,
        pretrained: GaussianMixture,
        unlearn: GaussianMixture | Sequence[GaussianMixture],
        network: ScoreNetwork,
        inner: int = 50,
        draws: int = 1000,
        pool: int = 20_000,
        rate: float = 1e-3,
        seed: int = 0,
    ) -> None:
        self.problem, self.network, self.inner, self.draws = problem, network, inner, draws
        self.unlearn = as_mixtures(unlearn)
        self._pretrained = pretrained
        self._rng = np.random.default_rng(seed)
        self._torch = torch.Generator().manual_seed(seed)
        self._pool = pretrained.sample(pool, self._rng)
        self._inputs = self._inputs_at(self._pool)
        self._optimizer = torch.optim.Adam(network.parameters(), lr=rate)
        self._levels = noise_levels()

    def step(self, multipliers: Array) -> None:
        """A few optimiser steps towards the tilt at these multipliers, (m,)."""
        log_weight = np.asarray(self.problem.log_weight(self._inputs, np.asarray(multipliers)))
        weight = np.exp(log_weight - log_weight.max())
        fit(self.network, self._pool, weight / weight.sum(), self.inner, self._torch, optimizer=self._optimizer)

    def levels(self) -> Array:
        """The levels that the network reaches now, (m,); their standard errors are in ``stderr``."""
        found = self._measured()
        self.stderr = np.array([one.stderr for one in found])
        return np.array([one.value for one in found])

    def sample(self, n: int) -> Array:
        """n draws of the network, (n, d), by a stochastic chain."""
        start = self._pretrained.noised(float(self._levels[0])).sample(n, self._rng)
        return sample_ddim(self.network.score, self._levels, start, 1.0, self._rng)

    def _measured(self) -> list[Estimate]:
        if isinstance(self.problem, du.ForwardKL):
            return [
                path_divergence(
                    NoisedMixture(part).score,
                    self.network.score,
                    part.sample(self.draws, self._rng),
                    self._levels,
                    self._rng,
                )
                for part in self.unlearn
            ]
        x = self.sample(self.draws)
        if isinstance(self.problem, du.Likelihood):
            unwanted = np.asarray(self.problem.likelihoods(self._inputs_at(x)))
            return [Estimate(float(c.mean()), float(c.std(ddof=1) / np.sqrt(len(c)))) for c in unwanted.T]
        return [
            path_divergence(self.network.score, NoisedMixture(part).score, x, self._levels, self._rng)
            for part in self.unlearn
        ]

    def _inputs_at(self, x: Array) -> Array:
        if isinstance(self.problem, du.Likelihood) and self.problem.kind == "density":
            return np.stack([part.log_prob(x) for part in self.unlearn], axis=-1)
        return log_ratios_at(self._pretrained, self.unlearn, x)


class Gap(NamedTuple):
    """What a network of some width loses after some steps: path KL(p*||p_theta) in nats, with its standard error."""

    width: int
    steps: int
    divergence: float
    stderr: float


def parameterisation_gap(
    answer: ToySolution, widths: Sequence[int], steps: Sequence[int], seed: int = 0, draws: int = 1000
) -> list[Gap]:
    """Tilted denoising for every width and number of steps, measured against the exact noised target.

    Args:
        draws: of the target for the measurement, by resampling 40,000 fresh draws of q. One training run each.
    """
    generator = np.random.default_rng(seed + 1)
    pool = answer.pretrained.sample(40_000, generator)
    points = pool[generator.choice(len(pool), size=draws, p=tilt_probabilities(answer, pool))]
    exact = _remembering(noised_target(answer).score)
    out = []
    for width, count in itertools.product(widths, steps):
        network = network_for(answer.pretrained, width, seed=seed)
        fit_tilted(answer, network, count, seed)
        # The same noise for every network: differences between them are not those of the draws.
        found = path_divergence(exact, network.score, points, noise_levels(24), np.random.default_rng(seed + 2))
        out.append(Gap(width, count, found.value, found.stderr))
    return out


def _remembering(score: Score) -> Score:
    """The same score, evaluated once for each level as long as the points there are the same."""
    known: dict[float, tuple[Array, Array]] = {}

    def remembered(x: Array, alpha_bar: float) -> Array:
        if alpha_bar not in known or not np.array_equal(known[alpha_bar][0], x):
            known[alpha_bar] = (x, score(x, alpha_bar))
        return known[alpha_bar][1]

    return remembered
