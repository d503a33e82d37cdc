"""Estimators side by side on a random pipeline, and what levels mean on ratios that are known."""

import math

import numpy as np
import pytest
import torch

import duality as du
from diffusion.evaluation.ratio_comparison import compare
from diffusion.evaluation.ratio_table import calibration_found
from diffusion.pipelines import denoiser_of
from diffusion.ratios.calibration import calibration
from diffusion.ratios.cross_fitted import against_q
from diffusion.ratios.elbo import elbos
from diffusion.ratios.estimate import estimate_ratios
from diffusion.ratios.level_table import level_table
from diffusion.runtime.cache import Cache
from diffusion.tasks.config import RatiosConfig, Sampling
from diffusion.tasks.levels import levels
from tests.diffusion import families
from tests.diffusion.families import build
from tests.diffusion.workflows.test_concepts import quiet


@pytest.fixture(scope="module")
def denoiser():
    return denoiser_of(build(families.sd))


@pytest.fixture(scope="module")
def estimate(denoiser, prompts):
    budget = RatiosConfig(
        concept_samples=10,
        retained_samples=15,
        num_samples=24,
        noisings=2,
        classifier_steps=8,
        elbo_samples=6,
        elbo_noise_levels=2,
    )
    return estimate_ratios(denoiser, prompts, budget, Sampling(num_inference_steps=2), None, quiet)


def test_every_estimator_is_beside_the_classifier(denoiser, estimate, tmp_path):
    cache = Cache(tmp_path, "tiny")
    found = compare(denoiser, estimate, None, cache, bar=quiet, path_steps=3)
    names = [row.estimator for row in found.agreement]
    assert names == [
        "ratio classifier",
        "ELBO against the empty prompt",
        "classifier against q, cross-fitted",
        "ELBO over contrast prompts",
        "path, at its own samples",
    ]
    assert [row.coverage.n for row in found.agreement] == [24, 6, 24, 6, 6]
    assert found.agreement[0].rank == pytest.approx(1.0)
    coverage = found.agreement[0].coverage
    assert (coverage.mean, coverage.stderr) == pytest.approx(estimate.coverage(0), rel=0.05)
    text = "\n".join(found.lines())
    assert "reliability of the ratio classifier, labelled samples" in text
    assert "prior 0.1 (as given)" in text
    again = compare(denoiser, estimate, None, Cache(tmp_path, "tiny"), bar=quiet, path_steps=3)
    assert again.model_dump_json() == found.model_dump_json()  # NaN is not equal to itself
    assert len(compare(denoiser, estimate, None, bar=quiet, thorough=False).agreement) == 2


def test_a_classifier_against_q_never_classifies_what_it_learned_from(denoiser, estimate):
    """Ratios stay below 1/pi, and samples of one half do not depend on the other half's order of labels."""
    values = against_q(denoiser, estimate, steps=4, seed=0)
    assert values.shape == (24, 1)
    assert float(values.max()) <= -math.log(0.1) + 1e-5
    assert torch.equal(values, against_q(denoiser, estimate, steps=4, seed=0))


def test_antithetic_noise_keeps_the_mean(denoiser, estimate):
    conditions = denoiser.condition(["seven"])
    samples = estimate.anchor[:1].repeat(100, 1, 1, 1)
    plain, mirrored = (
        elbos(denoiser, samples, conditions, levels=4, seed=1, antithetic=antithetic)[:, 0]
        for antithetic in (False, True)
    )
    error = math.hypot(float(plain.std()), float(mirrored.std())) / math.sqrt(100)
    assert float(plain.mean()) == pytest.approx(float(mirrored.mean()), abs=4 * error)
    assert not torch.equal(plain, mirrored)
    with pytest.raises(ValueError, match="even with antithetic"):
        elbos(denoiser, samples, conditions, levels=3, seed=1, antithetic=True)


def test_reliability_says_how_often_what_was_said_came_true():
    seen = calibration([0.05, 0.05, 0.05, 0.95], [False, False, True, True])
    lines = calibration_found("it", "classifier", "SVM", 4, seen).reliability()
    assert len(lines) == 2
    assert "posterior  0.050   frequency  0.333 ± 0.272" in lines[0]


class Known:
    """As much of a survey as the meaning of levels needs: a concept of share 0.2 that stands apart."""

    def __init__(self, apart=-20.0):
        values = np.full((1000, 1), apart)
        values[:200] = math.log((1 - 0.8 * math.exp(apart)) / 0.2)
        self.values = torch.from_numpy(values)
        self.ratios = du.LogRatios(values, priors=[0.2])
        self.posterior = self.values.exp() * 0.2

        class Named:
            name = "it"

        class TaskPrompts:
            concepts = (Named(),)

        self.prompts = TaskPrompts()


def test_what_levels_mean_is_what_the_solver_says():
    table = level_table(Known(), levels(du.Likelihood, ["1%"]))
    ranges = {each.problem: each for each in table.ranges}
    assert ranges["likelihood"].now.mean == pytest.approx(0.2, rel=1e-6)
    # Binomial: 0.4/sqrt(999).
    assert ranges["likelihood"].now.stderr == pytest.approx(0.4 / math.sqrt(999), rel=1e-3)
    assert ranges["forward-kl"].now.mean == pytest.approx(math.log(5), rel=1e-3)
    assert ranges["forward-kl"].least < ranges["forward-kl"].most < 40
    _, asked, solution = [row for row in table.rows if row[0] == "likelihood"][-1]
    assert asked == pytest.approx([0.01])
    exact = 0.01 * math.log(0.01 / 0.2) + 0.99 * math.log(0.99 / 0.8)
    assert solution.dual == pytest.approx(exact, rel=1e-4)
    assert table.showing(solution)[0] == pytest.approx(0.01 * solution.effective_sample_size, rel=1e-4)
    text = "\n".join(table.lines())
    assert "beyond which nothing attains it" in text
    assert f"{solution.multipliers[0]:.4g}" in text
    data = table.data()
    assert {row.problem for row in data.rows} == {"likelihood", "forward-kl", "reverse-kl"}
    row = data.rows[data.asked]
    assert (row.problem, row.levels, row.status) == ("likelihood", (0.01,), "OPTIMAL")
    assert (row.cost.mean, row.cost.n) == (solution.dual, 1000)
    assert level_table(Known()).data().asked is None


def test_levels_that_cannot_be_had_are_said_to_be():
    table = level_table(Known(apart=-1.0))
    assert any(solution is None for _, _, solution in table.rows)
    assert "cannot be had" in "\n".join(table.lines())
    assert "INFEASIBLE" in {row.status for row in table.data().rows}
