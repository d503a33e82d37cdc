"""The certificate of an unlearning run: what is exact, what is statistical, and what is the network's, kept apart."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import duality as du
from diffusion.ratios.ratio_estimate import Survey


@dataclass(frozen=True)
class Standards:
    """What ratios must show before a solution on them is certified."""

    auc: float = 0.98  # of the head on held-out labelled draws
    ece: float = 0.05  # likewise
    coverage: float = 0.25  # |mean posterior / prior - 1|, beyond twice its standard error
    agreement: float = 0.9  # AUC of the untrained ELBO difference against the head
    gap: float = 1e-8  # relative duality gap
    effective: float = 100.0  # effective sample size


def objections(survey: Survey, solution: du.Solution, standards: Standards | None = None) -> list[str]:
    """Why the solution cannot be certified; empty where it can."""
    limit = standards or Standards()
    found = []
    for index, seen in enumerate(survey.examination):
        name = survey.prompts.concepts[index].name
        if seen.auc < limit.auc:
            found.append(f"{name!r}: the head tells held-out draws apart with AUC {seen.auc:.3f}, below {limit.auc}")
        if seen.ece > limit.ece:
            found.append(
                f"{name!r}: the head's calibration error on held-out draws is {seen.ece:.3f}, over {limit.ece}"
            )
        ratio, error = survey.coverage(index)
        if abs(ratio - 1) > limit.coverage + 2 * error:
            found.append(
                f"{name!r}: the mean posterior on draws of q is {ratio:.2f} ± {error:.2f} times the prior: the "
                "concept's and contrast prompts do not cover what the model makes, or the prior is off"
            )
        agrees = survey.agreement(index)
        if agrees < limit.agreement:
            found.append(f"{name!r}: the ELBO difference agrees with the head with AUC {agrees:.3f} only")
    if solution.attained and solution.gap > limit.gap:
        found.append(f"the duality gap is {solution.gap:.1e}, over {limit.gap:.0e}")
    if not solution.attained:
        found.append(solution.message + " (see critical_levels)")
    if solution.effective_sample_size < limit.effective:
        found.append(
            f"the target rests on {solution.effective_sample_size:.0f} draws, fewer than {limit.effective:.0f}"
        )
    return found


def certificate(survey: Survey, solution: du.Solution, measured: dict[str, Any]) -> dict[str, Any]:
    """Plain JSON data: the question, then errors of three kinds, each under its own heading, then the verdict."""
    problems = objections(survey, solution)
    solved = json.loads(solution.to_json())
    solved.pop("log_weights")  # one number per draw: kept beside the certificate, in solution.json
    prompts = survey.prompts
    return {
        "asked": {
            "problem": solved["problem"],
            "concepts": [
                {"name": c.name, "wordings": list(c.wordings), "examples": len(c.examples or ()), "prior": c.prior}
                for c in prompts.concepts
            ],
            "priors were estimated, standard errors": list(survey.priors_stderr) or None,
            "anchor": prompts.anchor,
            "contrast": [list(group) for group in prompts.contrast],
            "draws of q stand for the rest": prompts.unlabelled,
        },
        "answer": {
            "status": solution.status.name,
            "multipliers": solved["multipliers"],
            "cost in nats": solved["primal"],
            "levels of the target": solved["levels"],
        },
        "exact": {
            "what": "the duality gap on the given ratios: no density on these draws meets the levels at less cost",
            "primal": solved["primal"],
            "dual": solved["dual"],
            "relative gap": solution.gap,
            "KKT residual": solved["kkt_residual"],
        },
        "statistical": {
            "what": "standard errors from the finite number of draws of q",
            "draws": len(survey.anchor),
            "effective sample size": solved["effective_sample_size"],
            "multipliers": solved["multipliers_stderr"],
            "cost": solved["primal_stderr"],
        },
        "network": {
            "what": "errors of the ratios and of the fit; not bounded by the two above",
            "held-out examination of the head": [asdict(seen) for seen in survey.examination],
            "mean posterior over prior": [survey.coverage(i) for i in range(len(prompts.concepts))],
            "AUC of the ELBO difference against the head": [survey.agreement(i) for i in range(len(prompts.concepts))],
            "measured": measured,
        },
        "certified": not problems,
        "objections": problems,
        "provenance": {
            "model fingerprint": survey.fingerprint,
            "budget": asdict(survey.budget),
            "versions": versions(),
        },
    }


def versions() -> dict[str, str]:
    """Of the packages that an answer depends on."""
    return {name: _version(name) for name in ("unlearning-duality", "torch", "diffusers", "peft")}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
