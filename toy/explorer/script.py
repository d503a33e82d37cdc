"""The lines of Python that reproduce a view."""

from __future__ import annotations

from toy.explorer.scenes import Scene, scenes
from toy.explorer.state import State
from toy.mixtures import GaussianMixture


def python_lines(state: State, levels: tuple[float, ...]) -> str:
    """A script of toy and duality that solves the very problem of a view. Raises ``EntryError`` for bad entries."""
    every = scenes(state)
    if state.prompts or state.keeping:
        return _joint_lines(state, every, [float(level) for level in levels])
    (places,) = every
    lines = ["import duality as du", "import toy", ""]
    lines += [f"q = {_mixture(places.pretrained)}"]
    lines += ["unlearn = ["] + [f"    {_part(part, places)}," for part in places.unlearn] + ["]"]
    values = [float(level) for level in levels]
    if state.problem == "RU":
        lines.append(f"problem = du.ReverseKL({values})")
    elif state.problem == "FU":
        lines.append(f"problem = du.ForwardKL({values})")
    elif state.kind == "posterior":
        lines.append(f"problem = du.Likelihood({values}, priors={list(places.priors)})")
    else:
        lines.append(f"problem = du.Likelihood({values}, kind={state.kind!r})")
    lines += [
        "answer = toy.solve(problem, q, unlearn)",
        "print(answer.solution)",
        "",
        f"target = toy.noised_target(answer)  # log_prob(x, alpha_bar), score(x, alpha_bar), here {state.alpha_bar:g}",
        "",
    ]
    return "\n".join(lines)


def _joint_lines(state: State, every: tuple[Scene, ...], levels: list[float]) -> str:
    """The same where laws depend on prompts or something is kept: a group of nodes for each prompt."""
    first, m, count = every[0], state.m, len(every)
    parts = [_mixture(part) for part in (*first.unlearn, *first.keeping)]
    lines = ["import numpy as np", "", "import duality as du", "import toy", "from toy.prompts import joined", ""]
    lines += ["laws = [  # q under each prompt"] + [f"    {_inner(_mixture(one.pretrained))}," for one in every] + ["]"]
    lines += ["parts = [  # to be unlearned, then to be kept"] + [f"    {_inner(part)}," for part in parts] + ["]"]
    lines += ["priors = [  # of the parts under each prompt"]
    lines += [f"    {[*one.priors, *one.shares]}," for one in every] + ["]"]
    lines += [
        "nodes = [toy.grid(law, [*parts, *laws]) for law in laws]",
        "each = [toy.log_ratios(law, parts, at) for law, at in zip(laws, nodes)]",
        "priors = np.maximum(priors, 1e-300)",
        "seen = [np.exp(np.minimum(one.values + np.log(prior), 0)) for one, prior in zip(each, priors)]",
        f"ratios = joined(each, [1 / {count}] * {count}, np.concatenate(seen))",
    ]
    unlearned, kept = list(range(m)), list(range(m, m + len(first.keeping)))
    fractions = [state.modes[k].keep for k in state.keeping]
    if state.problem == "RU":
        problem = f"du.ReverseKL({levels})"
    elif state.problem == "FU":
        problem = f"du.ForwardKL({levels})"
    else:
        kind = "detector" if state.kind == "posterior" else state.kind
        problem = f"du.Likelihood({levels}, kind={kind!r})"
    if not kept:
        lines.append(f"problem = {problem}")
    elif state.problem == "FU":
        lines += [
            f"rho = ratios.values[:, {m}:]",
            "own = (np.exp(rho + ratios.log_weights[:, None]) * rho).sum(axis=0)  # KL(mode‖q)",
            f'keep = du.Keep(own - np.log({fractions}), kind="forward-kl")',
        ]
    else:
        lines.append(f"own = np.exp(ratios.log_weights) @ ratios.detectors[:, {m}:]")
        lines.append(f"keep = du.Keep({fractions} * own)")
    if kept:
        lines.append(f"problem = du.Joint([{problem}, keep], columns=[{unlearned}, {kept}])")
    return "\n".join([*lines, "solution = du.solve(problem, ratios)", "print(solution)", ""])


def _mixture(mixture: GaussianMixture) -> str:
    data = mixture.to_dict()
    return f"toy.GaussianMixture(\n    {data['weights']},\n    {data['means']},\n    {data['covariances']},\n)"


def _part(part: GaussianMixture, places: Scene) -> str:
    """``q.component(k)`` where that is what it is, spelt out otherwise."""
    if len(part) == 1:
        for k in range(len(places.pretrained)):
            if repr(places.pretrained.component(k)) == repr(part):
                return f"q.component({k})"
    return _inner(_mixture(part))


def _inner(text: str) -> str:
    return text.replace("\n", "\n    ")
