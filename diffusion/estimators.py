"""Every estimator of the log ratio against every judge, and what levels mean for a model before anything is decided."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

import duality as du

from .cache import Cache
from .measure import Witness, take_sample
from .metrics import Calibration, calibration
from .models import Denoiser
from .ratios import elbo_posterior_ratios, posterior
from .survey import Bar, Survey, progress_bar


@dataclass(frozen=True)
class Comparison:
    """Calibration of each estimator on draws of q, by each judge; by the head itself where there is no judge."""

    rows: tuple[tuple[str, str, str, int, Calibration], ...]  # concept, estimator, judge, draws, calibration

    def lines(self) -> list[str]:
        return [
            f"{concept}: {estimator:<34} {count:>5} draws, judge {judge}: {seen}"
            for concept, estimator, judge, count, seen in self.rows
        ]

    def data(self) -> list[dict[str, Any]]:
        return [
            {"concept": concept, "estimator": estimator, "judge": judge, "draws": count, **asdict(seen)}
            for concept, estimator, judge, count, seen in self.rows
        ]


def compare(
    denoiser: Denoiser,
    known: Survey,
    witness: Witness | None,
    cache: Cache | None = None,
    normalised: bool = True,
    bar: Bar = progress_bar,
) -> Comparison:
    """Head, ELBO difference and normalised ELBO on the survey's draws of q.

    The ELBO estimators are computed at the first ``budget.elbo_draws`` of them; ``normalised`` costs as many network
    calls again for each contrast group. Without a witness the head's examination on held-out labelled draws is given.
    """
    prompts, budget = known.prompts, known.budget
    estimates: list[tuple[str, Tensor]] = [
        ("contrast head", known.values),
        ("ELBO against the empty prompt", known.elbo),
    ]
    if normalised:
        count = len(known.elbo)
        calls = count * budget.elbo_levels * (len(prompts.concepts) + len(prompts.contrast))

        def make() -> dict[str, Tensor]:
            with bar("normalised ELBO", calls) as shown:
                return {
                    "values": elbo_posterior_ratios(
                        denoiser,
                        known.anchor[:count],
                        prompts,
                        levels=budget.elbo_levels,
                        seed=10 * budget.seed + 8,
                        progress=shown.update,
                    )
                }

        request = {"prompts": asdict(prompts), "budget": asdict(budget)}
        made = cache.get("elbo-normalised", request, make) if cache else make()
        estimates.append(("ELBO over contrast prompts", made["values"]))
    rows = []
    names = [concept.name for concept in prompts.concepts]
    if witness is None:
        for name, seen in zip(names, known.examination, strict=True):
            rows.append((name, "contrast head, labelled draws", "prompts", int(len(known.labels) / 5), seen))
        return Comparison(tuple(rows))
    said = take_sample("q", denoiser.pipeline, [prompts.anchor] * len(known.anchor), known.anchor, witness).said
    for index, name in enumerate(names):
        wanted = witness.asked(name)
        for estimator, values in estimates:
            p = posterior(values, prompts.priors)[:, index].numpy()
            for judge, labels in said.items():
                rows.append((name, estimator, judge, len(p), calibration(p, labels[: len(p)] == wanted)))
    return Comparison(tuple(rows))


@dataclass(frozen=True)
class LevelTable:
    """For each problem: where q stands, and price and cost at several levels."""

    rows: tuple[tuple[str, tuple[float, ...], du.Solution], ...]  # problem, present levels, solution

    def lines(self) -> list[str]:
        head = f"{'problem':<12}{'now':>12}{'level':>12}{'multiplier':>22}{'cost (nats)':>22}{'draws it rests on':>20}"
        out = [head]
        for name, now, s in self.rows:
            lam = f"{s.multipliers[0]:.4g} ± {s.multipliers_stderr[0]:.2g}"
            cost = f"{s.dual:.4g} ± {s.primal_stderr:.2g}"
            rest = f"{s.effective_sample_size:.0f} of {len(s.log_weights)}"
            out.append(f"{name:<12}{now[0]:>12.4g}{s.problem.levels[0]:>12.4g}{lam:>22}{cost:>22}{rest:>20}")
        return out

    def data(self) -> list[dict[str, Any]]:
        return [
            {
                "problem": name,
                "now": list(now),
                "levels": s.problem.levels.tolist(),
                "multipliers": s.multipliers.tolist(),
                "cost": s.dual,
                "effective sample size": s.effective_sample_size,
                "status": s.status.name,
            }
            for name, now, s in self.rows
        ]


def level_table(known: Survey) -> LevelTable:
    """Solve a few levels of each problem on the survey's ratios (one line per solve; milliseconds each)."""
    import warnings

    ratios, rows = known.ratios, []
    plans: tuple[tuple[str, du.Problem, tuple[float, ...]], ...] = (
        ("likelihood", du.Likelihood(0.01), (0.5, 0.2, 0.1, 0.05)),
        ("reverse-kl", du.ReverseKL(1.0), (1.25, 1.5, 2.0)),
        ("forward-kl", du.ForwardKL(1.0), (1.25, 1.5, 2.0)),
    )
    for name, problem, factors in plans:
        now = problem.bind(ratios).levels_of(ratios, ratios.log_weights)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", du.FewDrawsWarning)  # the table's last column says the same
            for solution in du.frontier(problem, ratios, np.outer(factors, now)):
                rows.append((name, tuple(float(level) for level in now), solution))
    return LevelTable(tuple(rows))
