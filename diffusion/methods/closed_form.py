r"""Where a fit under a law of prompts begins: each prompt takes the law of its anchor, as far as words can say it.

::

    min over M of  sum_c P(c) |(I + M) e_c - e_a(c)|^2 + held sum_k P(k) |M e_k|^2 + ridge |M|_F^2,
    I + M = ( sum_c P(c) e_a(c) e_c' + held sum_k P(k) e_k e_k' + ridge I ) G^{-1},
    G     =   sum_c P(c) e_c e_c'    + held sum_k P(k) e_k e_k' + ridge I,

e (d,): what the text encoder says at each place of a prompt; c: prompts that are asked for with another one's law, a(c)
their anchors, k: prompts that keep their own; P: the law. A layer V of keys or values in cross-attention becomes
V (I + M). Where the first two sums vanish, and prompts speak through these layers alone, the network says under c what
it said under a(c), at every state and level of noise, and under k what it said: nothing of it has to be learned from
samples, and no noise of a fit is multiplied by the sampler's scale.

Least squares on a few prompts may be wrong on all others, so ``held`` and ``ridge`` are chosen, and the whole of it is
believed or not, by prompts that are left out (cross-validation, in the norm of all keys and values): see
:func:`change_of`. What holds the change in a network: :mod:`diffusion.methods.closed_form_start`.

Source: theory, "Prompts in closed form"; Gandikota et al., Unified Concept Editing in Diffusion Models (WACV 2024),
eq. 7, for the least squares (:mod:`diffusion.methods.erasure.uce`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

HELD = (10.0, 30.0, 100.0, 300.0, 1000.0)
RIDGES = (1e-5, 1e-4, 1e-3)  # of the mean square of an entry of e

# An error under a prompt that is to keep its law counts so much more than what is left to do under one that is not: the
# fit that follows does the latter, at a price under other prompts of about a tenth of it, and nobody mends the former.
CAUTION = 10.0
# What may be left of the way, errors under left-out prompts included. On the wardrobe a style is at 0.005 to 0.07, an
# object among its neighbours at 0.17 to 0.65, a seven on `digits` at 0.21. Before versions stood among the prompts two
# objects were at 0.53 and 0.54: a fit that began there cost half of what it cost from the base model, and removed as
# much or more (docs/benchmarks.md).
BELIEVED = 0.6


@dataclass(frozen=True)
class Sums:
    """Second moments (d, d), by the law's weights: of e under prompts c, of e_a(c) with e, of e_a(c), and under k."""

    asked: Tensor
    across: Tensor
    anchors: Tensor
    kept: Tensor

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def left(self, m: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
        """``sum P |(I + M) e - e_a|^2`` and ``sum P |M e|^2`` in the norm ``norm`` (d, d)."""
        all_of_it = m + torch.eye(len(m), dtype=m.dtype)
        cross = all_of_it @ self.across.T
        asked = all_of_it @ self.asked @ all_of_it.T - cross - cross.T + self.anchors
        return (norm * asked).sum(), (norm * (m @ self.kept @ m.T)).sum()


@dataclass(frozen=True)
class Change:
    """``V -> V (I + M)``. ``m`` (d, d); ``root``, ``inverse`` (d, d): of G, its square root and that one's inverse.

    ``left``: what left-out prompts say is left of the way, and :data:`CAUTION` times what it did to the others.
    """

    m: Tensor
    root: Tensor
    inverse: Tensor
    left: float

    @property
    def believed(self) -> bool:
        """Whether left-out prompts say that the change carries over to prompts like them."""
        return self.left < BELIEVED

    def factors(self, v: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        """(out, rank), (rank, d), whose product is of all of that rank the nearest to ``v M`` (out, d) in G's norm."""
        u, s, vt = torch.linalg.svd(v.to(self.m) @ self.m @ self.root, full_matrices=False)
        count = min(rank, len(s))
        left, right = u.new_zeros(len(v), rank), u.new_zeros(rank, len(self.m))
        left[:, :count] = u[:, :count] * s[:count].sqrt()
        right[:count] = s[:count, None].sqrt() * vt[:count] @ self.inverse
        return left, right


def sums_of(e: Tensor, anchors: Tensor, weights: Tensor, moved: Tensor) -> Sums:
    """Of vectors ``e`` of prompts and of their ``anchors`` (n, places, d), weights (n,), and who is ``moved`` (n,)."""
    rows, to = (value.detach().cpu().double().flatten(0, 1) for value in (e, anchors))
    shares = (weights.double() / e.shape[1]).repeat_interleave(e.shape[1])[:, None]
    by = moved.repeat_interleave(e.shape[1])[:, None]
    mine, rest = shares * by, shares * ~by
    return Sums((rows * mine).T @ rows, (to * mine).T @ rows, (to * mine).T @ to, (rows * rest).T @ rows)


def minimiser(sums: Sums, held: float, ridge: float) -> tuple[Tensor, Tensor]:
    """M and G, (d, d) each. ``ValueError`` unless held is at least 0 and ridge above 0."""
    if not (held >= 0 and ridge > 0):
        raise ValueError(f"held must be at least 0 and ridge above 0, got {held}, {ridge}")
    gram = sums.asked + held * sums.kept + ridge * torch.eye(len(sums.asked), dtype=sums.asked.dtype)
    return torch.linalg.solve(gram, (sums.across - sums.asked).T).T, gram


def _scaled(sums: Sums, held: float, ridge: float) -> tuple[Tensor, Tensor]:
    """The minimiser at a ridge in units of the mean square of an entry."""
    return minimiser(sums, held, ridge * float((sums.asked + held * sums.kept).diagonal().mean()))


def change_of(folds: list[Sums], norm: Tensor) -> Change | None:
    """The minimiser for all prompts, at the ``held`` and ``ridge`` of the tables above that left-out prompts like best.

    ``folds``: sums of disjoint parts of the prompts; of M from all parts but one, that one tells ``sum P |(I+M) e -
    e_a|^2 + CAUTION sum P |M e|^2``, in units of its value ``sum P |e - e_a|^2`` where nothing is done. None where
    there is no way to go, or all prompts are in one part.
    """
    total = sum(folds[1:], folds[0])
    whole = float(total.left(torch.zeros_like(norm), norm)[0])
    if len(folds) < 2 or not whole > 0:
        return None
    found = []
    for held in HELD:
        for ridge in RIDGES:
            value = 0.0
            for k, one in enumerate(folds):
                first, *others = folds[:k] + folds[k + 1 :]
                asked, kept = one.left(_scaled(sum(others, first), held, ridge)[0], norm)
                value += float(asked + CAUTION * kept) / whole
            found.append((value, held, ridge))
    left, held, ridge = min(found)
    m, gram = _scaled(total, held, ridge)
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(values[-1] * len(values) * torch.finfo(torch.float64).eps)
    root, inverse = (vectors * values.pow(power) @ vectors.T for power in (0.5, -0.5))
    return Change(m, root, inverse, left)
