r"""Fresh samples for every level of a law of prompts, counted as they come.

::

    levels of all prompts     samples of the law P                                   n of them
    levels of a group         those of the same that fall into it, and further ones of P(c | group), as many in all as
                              the plan has for it

Prompts are drawn independently, one image each, so what a level is the mean of are independent values. Looked at once,
all n of them, a yes-or-no detector's count has an exact bound. ``sequential``: samples are made in batches until every
level of theirs is shown, or surely missed, or there are n; the bound is then one that holds at all times at once
(:class:`duality.confidence.MeanSequence`), whenever one stops, also for what else is counted on the same samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.evaluation.bounds import Bound, Rule
from diffusion.evaluation.planning import Plan, check_shares
from diffusion.tasks.config import EvaluationConfig
from diffusion.tasks.detector_levels import Constraint
from diffusion.tasks.prompts import Prompts
from duality.confidence import MeanSequence

# Samples (n, ...) of prompts by number (n,) from a seed, and what detectors say of them (n, k), double.
Make = Callable[[NDArray[np.int64], int], tuple[Tensor, NDArray[np.float64]]]


@dataclass(frozen=True)
class Counted:
    """``rows`` (n,): prompts by number; ``latents`` (n, ...); ``said`` (n, k). ``bounds``: by constraint, as its
    looks have found them; empty where samples are looked at once."""

    rows: NDArray[np.int64]
    latents: Tensor
    said: NDArray[np.float64]
    bounds: dict[Constraint, Bound]

    def __len__(self) -> int:
        return len(self.rows)


def count_prompts(
    make: Make,
    prompts: Prompts,
    constraints: Sequence[Constraint],
    plan: Plan,
    seed: int,
    batch: int,
    progress: Callable[[int], object] | None = None,
) -> dict[str | None, Counted]:
    """Samples by group, None first: the whole law, which is looked at whether or not it has a level of its own.

    ``plan`` has levels, the most samples of each group, confidence, and whether to stop before; ``batch``: samples
    from one look to the next.
    """
    asked = dict(zip(constraints, plan.asked.levels.tolist(), strict=True))
    most = most_of_groups(constraints, plan.each) | {None: plan.samples}
    found: dict[str | None, Counted] = {}
    for j, group in enumerate(dict.fromkeys([None, *(each.group for each in constraints)])):
        mine = {each: level for each, level in asked.items() if each.group == group}
        looks = {each: MeanSequence(plan.confidence) for each in mine}
        parts = []
        if group is not None:  # samples of the law that fall into the group are samples of the group
            law = found[None]
            inside = prompts.within(group)[law.rows] > 0
            parts.append((law.rows[inside], law.latents[torch.from_numpy(inside)], law.said[inside]))
            _look(looks, law.said[inside])
        n = most[group]
        chosen = prompts.drawn(n, seed_of(seed, j), group)
        while (there := sum(len(rows) for rows, _, _ in parts)) < n and not (
            plan.sequential
            and there
            and looks
            and all(_decided(looks[each], each, level) for each, level in mine.items())
        ):
            size = min(batch if plan.sequential else n, n - there)
            some = chosen[:size]
            chosen = chosen[size:]
            latents, said = make(some, seed_of(seed, j, 1 + len(parts)))
            parts.append((some, latents, said))
            _look(looks, said)
            if progress is not None:
                progress(size)
        rows, latents_, said_ = zip(*parts, strict=True)
        bounds = {each: _bound(look, each) for each, look in looks.items()} if plan.sequential else {}
        found[group] = Counted(np.concatenate(rows), torch.cat(latents_), np.concatenate(said_), bounds)
    return found


def most_of_groups(constraints: Sequence[Constraint], counts: Sequence[int]) -> dict[str | None, int]:
    """The most samples of each group with a level."""
    return {each.group: n for each, n in zip(constraints, counts, strict=True)}


def shares_of_groups(prompts: Prompts, constraints: Sequence[Constraint]) -> list[float]:
    """How much of the law falls into each group with a level."""
    groups = dict.fromkeys(each.group for each in constraints if each.group is not None)
    return [float(prompts.probabilities[prompts.within(group) > 0].sum()) for group in groups]


def expected(prompts: Prompts, constraints: Sequence[Constraint], n: int, counts: Sequence[int]) -> int:
    """How many samples :func:`count_prompts` makes where nothing ends it: n of the law, and for each group with a level
    its own ``counts`` (m,), less those that are expected to fall into it anyway."""
    most = most_of_groups(constraints, counts)
    groups = [group for group in most if group is not None]
    shares = shares_of_groups(prompts, constraints)
    return round(n + sum(max(0.0, most[group] - share * n) for group, share in zip(groups, shares, strict=True)))


def check_counts(constraints: Sequence[Constraint], evaluation: EvaluationConfig) -> None:
    """Raise ``ValueError`` for a level that so few samples cannot show; multiples are not known yet, and left out."""
    for each, n in zip(constraints, evaluation.counts([each.group for each in constraints]), strict=True):
        if not each.level.relative:
            most = each.level.value if each.side == "upper" else 1 - each.level.value
            check_shares([most], n, evaluation.confidence, evaluation.sequential)


def seed_of(*parts: int) -> int:
    """A seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(2))


def rule_of(values: NDArray[np.float64], sequential: bool) -> Rule:
    """The bound for values that are looked at once, or as they come."""
    if sequential:
        return "anytime"
    return "clopper_pearson" if np.isin(values, (0.0, 1.0)).all() else "betting"


def _look(looks: dict[Constraint, MeanSequence], said: NDArray[np.float64]) -> None:
    """Further samples for each; of what is kept the share that lacks it is bounded from above."""
    for each, look in looks.items():
        if len(said):
            values = said[:, each.column]
            look.update(values if each.side == "upper" else 1 - values)


def _decided(look: MeanSequence, constraint: Constraint, level: float) -> bool:
    return look.decided(level if constraint.side == "upper" else 1 - level) is not None


def _bound(look: MeanSequence, constraint: Constraint) -> Bound:
    value = look.upper if constraint.side == "upper" else 1 - look.upper
    return Bound(side=constraint.side, value=value, confidence=look.confidence, rule="anytime")
