"""Dual steps on measured levels, for fits that go by a solution and for guidance without any fit."""

import dataclasses
from itertools import product

import numpy as np
import pytest
import torch

import duality as du
from diffusion.methods import Correction, GuidanceDistillation, Tilted, corrected_guidance
from diffusion.methods.base import FitContext
from diffusion.methods.correction import MovingTarget
from diffusion.methods.level_estimates import Meter
from diffusion.tasks.config import FitConfig
from tests.diffusion.methods.conftest import BRIEF, SMALL, adapters, same
from tests.marks import slow_but

KINDS = ("forward", "likelihood", "reverse")


@pytest.mark.parametrize(
    ("method", "kind"),
    slow_but(product((Tilted, GuidanceDistillation), KINDS), (Tilted, "likelihood"), (GuidanceDistillation, "reverse")),
)
def test_multipliers_move_between_the_steps_of_a_fit(method, kind, denoiser, estimate, solutions):
    outcome = method(correction=BRIEF).fit(FitContext(denoiser, estimate, solutions[kind], SMALL))
    assert len(outcome.losses) == SMALL.max_train_steps
    assert outcome.multipliers.shape == (4, 2)  # two moments, the end, and what would come next
    assert outcome.levels.shape == outcome.errors.shape == (3, 2)
    np.testing.assert_array_equal(outcome.multipliers[0], solutions[kind].multipliers)
    assert not np.array_equal(outcome.multipliers[0], outcome.multipliers[-1])
    moved = adapters(denoiser)
    plain = method(correction=None).fit(FitContext(denoiser, estimate, solutions[kind], SMALL))
    assert plain.levels.size == 0
    assert plain.losses[0] == outcome.losses[0]  # the first step is before any correction
    assert plain.losses[-1] != outcome.losses[-1]
    assert not same(moved, adapters(denoiser))


@pytest.mark.parametrize("reached", [False, True])
def test_rounds_go_on_after_the_last_step_until_levels_are_met(reached, denoiser, estimate, solutions, monkeypatch):
    from diffusion.methods.level_estimates import Measured

    problem = solutions["likelihood"].problem.bind(estimate.ratios)
    level = problem.levels * (1.0 if reached else 1.5)
    monkeypatch.setattr(Meter, "measure", lambda *_: Measured(level, np.full(2, 1e-4), estimate.anchor))
    method = GuidanceDistillation(correction=dataclasses.replace(BRIEF, extra=2))
    outcome = method.fit(FitContext(denoiser, estimate, solutions["likelihood"], SMALL))
    assert len(outcome.losses) == SMALL.max_train_steps + (0 if reached else 2)
    assert len(outcome.levels) == (3 if reached else 5)
    assert np.isfinite(outcome.losses).all()


@pytest.mark.parametrize("kind", KINDS)
def test_moving_starts_as_the_solution(kind, estimate, solutions):
    solution = solutions[kind]
    moving = MovingTarget(estimate, solution.problem, solution)
    rho = estimate.values.double()
    torch.testing.assert_close(moving.log_weights, solution.log_weight(rho))
    torch.testing.assert_close(moving.strength(rho), solution.guidance(rho))
    natural = torch.from_numpy(np.array(solution.natural))
    torch.testing.assert_close(moving.noised(rho), solution.problem.bind(estimate.ratios).noised_tilt(rho, natural))


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_is_corrected_until_its_levels_are_met(kind, denoiser, estimate, solutions, monkeypatch):
    """A network whose levels answer to what is asked, 1.6 times as far from q's as they should be."""
    from diffusion.methods.level_estimates import Measured

    solution = solutions[kind]
    problem = solution.problem.bind(estimate.ratios)
    q = problem.levels_of(estimate.ratios, estimate.ratios.log_weights)

    def measure(self, round_):
        rho = estimate.ratios.values
        k = np.array(self.guided.strength(torch.from_numpy(rho.copy())))
        lam = self.problem.multipliers(k[0]) if kind == "reverse" else asked_by(k, rho)
        log_mass = estimate.ratios.log_weights + problem.log_weight(rho, lam)
        exact = problem.levels_of(estimate.ratios, log_mass - np.logaddexp.reduce(log_mass))
        return Measured(q + 1.6 * (exact - q), np.full(2, 1e-3), estimate.anchor)

    def asked_by(k, rho):
        """The multipliers behind the strengths of the first sample: solved from k = share / (1 - sum of shares)."""
        share = k[0] / (1 + k[0].sum())
        priors = np.array(estimate.prompts.priors)
        if kind == "forward":
            return share / np.exp(rho[0])
        return -np.log1p(-share / (priors * np.exp(rho[0])))

    monkeypatch.setattr(Meter, "measure", measure)
    many = Correction(rounds=12, samples=6)
    strength, outcome = corrected_guidance(denoiser, estimate, solution, many)
    met = np.abs(problem.slack(outcome.levels[-1])) <= 1e-3
    assert (met | (outcome.multipliers[-1] == 0)).all(), outcome.levels
    assert (problem.slack(outcome.levels[-1]) >= -1e-3).all()
    assert len(outcome.levels) < 12
    assert len(outcome.multipliers) == len(outcome.levels) + 1
    rho = estimate.values.double()
    expected = problem.guidance(rho, torch.tensor(outcome.multipliers[-1]))
    torch.testing.assert_close(strength(rho), expected)


def test_guidance_measures_itself(denoiser, estimate, solutions):
    _, outcome = corrected_guidance(denoiser, estimate, solutions["likelihood"], BRIEF)
    assert 1 <= len(outcome.levels) <= 3
    assert np.isfinite(outcome.levels).all()
    _, again = corrected_guidance(denoiser, estimate, solutions["likelihood"], BRIEF)
    np.testing.assert_array_equal(outcome.levels, again.levels)


@pytest.mark.parametrize("at", [(0.0,), (1.0,), (0.5, 0.5), (0.6, 0.4)])
def test_moments_must_lie_inside_the_fit(at):
    with pytest.raises(ValueError, match="at must be increasing shares"):
        Correction(at=at)


@pytest.mark.parametrize("name", ["rounds", "samples", "integrated", "noise_levels"])
def test_counts_must_be_positive(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Correction(**{name: 0})


def test_rare_events_are_counted_on_half_as_many_samples_as_q_has(denoiser, estimate):
    plain, counted = Correction(), Correction(samples=7)
    assert plain.meter(denoiser, estimate, du.Likelihood([0.1, 0.1]), 0).count == len(estimate.anchor) // 2
    assert counted.meter(denoiser, estimate, du.Likelihood([0.1, 0.1]), 0).count == 7
    assert counted.meter(denoiser, estimate, du.ForwardKL([1.0, 1.0]), 0).count == plain.integrated


def test_moments_of_a_very_short_fit_are_not_taken_twice(denoiser, estimate, solutions):
    rounds = BRIEF.of_fit(FitContext(denoiser, estimate, solutions["likelihood"], FitConfig(max_train_steps=2)))
    assert list(rounds.ends) == [1, 2]
    assert isinstance(rounds.problem, du.Likelihood)


def test_the_mean_starts_again_after_a_round(denoiser, estimate, solutions):
    """Weights before the first correction have no part in what is delivered beyond the first tenth."""
    from diffusion.methods.base import fit_adapters
    from diffusion.training.trainer import Trainer

    seen = []

    class Spy:
        def tensors(self):
            return {}

        def data(self):
            return {}

        def train(self, trainer: Trainer):
            trainer.run(3)
            before = [value.clone() for value in trainer.average]
            trainer.average_anew()
            trainer.run(4)
            now = [p.detach().clone() for p in trainer.parameters]
            seen.extend(zip(trainer.average, before, now, strict=True))

    method = GuidanceDistillation(correction=None)
    context = FitContext(denoiser, estimate, solutions["likelihood"], SMALL)
    fit_adapters(context, lambda _: method.objective(context), rounds=Spy())
    for mean, before, now in seen:
        torch.testing.assert_close(mean, 0.1 * before + 0.9 * now)
