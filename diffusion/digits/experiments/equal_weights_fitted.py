r"""Reverse KL levels of three digits in a network: fits by solved multipliers beside fits by equal weights.

::

    python -m diffusion.digits.experiments.equal_weights_fitted --output OUT

    solved       min over f of  retention(f) + sum_i lam_i (b_i - KL_i(f)),      lam the solution's, held
    moved        the same, lam moved by the levels that the network was measured to have (primal-dual)
    equal, c     the same with lam_i = c: the solved mean times some numbers, and the least c that keeps all levels at
                 the target (:mod:`diffusion.digits.experiments.equal_weights`)

All with the same steps, rate, seeds and survey. Each has its folder in OUT, as of ``unlearn distill``; one that is
there already is read. A row: how far the worst level is kept, level over what was asked, and the cost of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import duality as du
from diffusion.api import open_at_law, unlearn_by_ratios
from diffusion.digits.experiments.equal_weights import budget_of, least_equal, parser_of, problem_on
from diffusion.digits.prompts import DigitsClassifiers
from diffusion.methods import FixedWeights, Method, PrimalDual
from diffusion.reports.certificate import Certificate
from diffusion.runtime.cache import default_folder
from diffusion.runtime.files import say
from diffusion.runtime.progress import progress_bar
from diffusion.tasks.config import Config, EvaluationConfig, FitConfig, RuntimeConfig
from diffusion.tasks.task import ConceptTask
from diffusion.training.lora import undo

SCALES = (1.0, 2.0)


@dataclass(frozen=True)
class Row:
    """A fit: its levels (m,) by the ratios with standard errors, what was asked of them, and its cost; nats."""

    name: str
    levels: tuple[float, ...]
    errors: tuple[float, ...]
    asked: tuple[float, ...]
    cost: float
    cost_error: float

    @property
    def worst(self) -> int:
        return int(np.argmin(np.array(self.levels) / np.array(self.asked)))

    @property
    def kept(self) -> int:
        """Levels that are not missed by more than two standard errors."""
        return int(sum(level >= b - 2 * e for level, e, b in zip(self.levels, self.errors, self.asked, strict=True)))


def fits_of(problem: du.ReverseKL, ratios: du.LogRatios, scales: Sequence[float] = SCALES) -> dict[str, Method]:
    """What is fitted, by name. Equal weights that lie outside the dual domain are left out."""
    solution, m = du.solve(problem, ratios), len(problem.levels)
    found: dict[str, Method] = {
        "solved": FixedWeights(weights=tuple(map(float, solution.multipliers))),
        "moved": PrimalDual(),
    }
    mean, least = float(solution.multipliers.mean()), least_equal(problem, ratios)
    equal = {f"equal, {scale:g} x the solved mean": scale * mean for scale in scales}
    if least is not None:
        equal["equal, the least that keeps all"] = least
    return found | {name: FixedWeights(weights=c) for name, c in equal.items() if problem.domain(np.full(m, c))}


def measured_in(folder: Path, asked: Sequence[float], config: Config) -> Certificate | None:
    """What a fit that was measured left; None where there is none, or it was interrupted before.

    ``ValueError`` where it is of other levels, or of another survey, fit or number of samples.
    """
    path = folder / "certificate.json"
    if not path.exists():
        return None
    found = Certificate.model_validate_json(path.read_text(encoding="utf-8"))
    fit, budget = found.fitted_model.fit, found.provenance.budget
    same = budget == config.ratios.plain() and found.question.samples == config.evaluation.samples
    same = same and (fit["max_train_steps"], fit["seed"]) == (config.fit.max_train_steps, config.fit.seed)
    if not same or not np.allclose(found.question.levels, asked, rtol=1e-6):
        raise ValueError(f"output: {folder} holds a fit of another question or budget; choose another folder")
    return found if found.fitted_model.measured.costs else None


def row_of(name: str, proof: Certificate, asked: Sequence[float]) -> Row:
    """From what was measured of a fit; ``asked``: the levels (m,), which a certificate's own may lie beyond."""
    measured = proof.fitted_model.measured
    found, cost = [each.estimate for each in measured.level()], measured.cost().estimate
    means, errors = tuple(each.mean for each in found), tuple(each.stderr for each in found)
    return Row(name, means, errors, tuple(asked), cost.mean, cost.stderr)


def lines(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """A table."""
    heads = [*(name.split()[-1] for name in names), "worst/asked", "cost"]
    head = f"{'':<34}" + "".join(f"{each:>16}" for each in heads) + f"{'kept':>6}"
    out = [head, f"{'asked':<34}" + "".join(f"{level:>16.2f}" for level in rows[0].asked)]
    for each in rows:
        numbers = (f"{level:.2f} ± {error:.2f}" for level, error in zip(each.levels, each.errors, strict=True))
        k, b = each.worst, each.asked[each.worst]
        worst = f"{each.levels[k] / b:.3f} ± {each.errors[k] / b:.3f}"
        cost = f"{each.cost:.3f} ± {each.cost_error:.3f}"
        cells = "".join(f"{cell:>16}" for cell in (*numbers, worst, cost))
        out.append(f"{each.name:<34}{cells}{each.kept:>6}")
    return out


def main(words: Sequence[str] | None = None) -> None:
    """The command."""
    parser = parser_of(__doc__)
    parser.add_argument("--max-train-steps", type=int, default=400)
    parser.add_argument("--evaluation-samples", type=int, default=2000)
    parser.add_argument("--scales", type=float, nargs="*", default=SCALES, help="of the solved mean, as equal weights")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args(words)
    config = Config(
        ratios=budget_of(given),
        fit=FitConfig(max_train_steps=given.max_train_steps, seed=given.seed),
        evaluation=EvaluationConfig(samples=given.evaluation_samples),
        runtime=RuntimeConfig(cache_folder=default_folder()),
    )
    task = ConceptTask(concepts=given.concept, problem="reverse-kl", levels=given.level)
    base, config = open_at_law("digits", config, of_ratios=True)
    problem, ratios = problem_on(base, config, given)
    rows = []
    for name, method in fits_of(problem, ratios, given.scales).items():
        folder = given.output / name.replace(",", "").replace(" ", "-")
        proof = measured_in(folder, problem.levels.tolist(), config)
        if proof is None:
            say(name)
            undo(base)
            found = unlearn_by_ratios(
                base.pipeline, task, config, output=folder, overwrite=True, method=method,
                image_classifier=DigitsClassifiers(), bar=progress_bar,
            )  # fmt: skip
            proof = found.certificate
        rows.append(row_of(name, proof, problem.levels.tolist()))
    print("\n".join(lines(rows, given.concept)))


if __name__ == "__main__":
    main()
