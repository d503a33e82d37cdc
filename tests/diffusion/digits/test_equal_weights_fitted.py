"""Networks fitted by solved and by equal weights: which fits there are, and how a row is read."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

import duality as du
from diffusion.digits.experiments.equal_weights import least_equal
from diffusion.digits.experiments.equal_weights_fitted import Row, fits_of, lines, measured_in
from diffusion.methods import PrimalDual
from diffusion.reports.certificate import Certificate
from diffusion.tasks.config import Config


def ratios():
    x = np.random.default_rng(0).normal(size=(800, 2))
    means = np.array([[1.0, 0.0], [0.0, 1.0]])
    return du.LogRatios(x @ means.T - 0.5 * (means**2).sum(1))


def test_fits_are_of_solved_moved_and_equal_multipliers_inside_the_domain():
    problem, given = du.ReverseKL([0.6, 1.0]), ratios()
    solved = du.solve(problem, given).multipliers
    found = fits_of(problem, given, scales=(1.0, 1000.0))
    assert list(found) == ["solved", "moved", "equal, 1 x the solved mean", "equal, the least that keeps all"]
    assert found["solved"].weights == pytest.approx(tuple(solved))
    assert found["moved"] == PrimalDual()
    assert found["equal, 1 x the solved mean"].weights == pytest.approx(solved.mean())
    assert found["equal, the least that keeps all"].weights == least_equal(problem, given)


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")  # such a level rests on a few draws
def test_no_equal_weight_is_fitted_where_none_keeps_all():
    assert list(fits_of(du.ReverseKL([0.6, 1e4]), ratios(), scales=())) == ["solved", "moved"]


def test_a_row_says_which_level_is_kept_worst_and_counts_those_that_are_not_missed():
    row = Row("solved", (9.0, 6.0, 12.0), (0.25, 0.25, 0.25), (10.0, 6.1, 10.0), 0.7, 0.01)
    assert (row.worst, row.kept) == (0, 2)
    head, asked, line = lines([row], ("a handwritten seven", "b", "c"))
    assert asked.split() == ["asked", "10.00", "6.10", "10.00"]
    assert " ".join(line.split()) == "solved 9.00 ± 0.25 6.00 ± 0.25 12.00 ± 0.25 0.900 ± 0.025 0.700 ± 0.010 2"
    assert head.split()[-3:] == ["worst/asked", "cost", "kept"]


def test_what_is_read_is_a_fit_that_was_measured_of_the_same_question_and_budget(tmp_path, monkeypatch):
    config, costs = Config(fit={"max_train_steps": 400}), ["one"]
    proof = SimpleNamespace(
        question=SimpleNamespace(levels=(1.0, 2.0), samples=config.evaluation.samples),
        provenance=SimpleNamespace(budget=config.ratios.plain()),
        fitted_model=SimpleNamespace(
            fit={"max_train_steps": 400, "seed": config.fit.seed}, measured=SimpleNamespace(costs=costs)
        ),
    )
    monkeypatch.setattr(Certificate, "model_validate_json", lambda _text: proof)
    assert measured_in(tmp_path, (1.0, 2.0), config) is None  # no file
    (tmp_path / "certificate.json").write_text("{}", encoding="utf-8")
    assert measured_in(tmp_path, (1.0, 2.0), config) is proof
    for levels, other in (
        ((1.0, 2.1), config),
        ((1.0, 2.0), config.but(fit=config.fit.but(max_train_steps=40))),
        ((1.0, 2.0), config.but(fit=config.fit.but(seed=1))),
        ((1.0, 2.0), config.but(ratios=config.ratios.but(num_samples=40))),
        ((1.0, 2.0), config.but(evaluation=config.evaluation.but(samples=40))),
    ):
        with pytest.raises(ValueError, match=r"output: .* another question or budget"):
            measured_in(tmp_path, levels, other)
    costs.clear()
    assert measured_in(tmp_path, (1.0, 2.0), config) is None  # fitted, and interrupted before it was measured
