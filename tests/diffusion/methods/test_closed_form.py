"""Prompts in closed form: the least squares, and what left-out prompts say of them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion.methods.closed_form import RIDGES, Sums, change_of, minimiser, sums_of

EPS = np.finfo(float).eps
seeds = st.integers(0, 2**32 - 1)


def told(seed, n=6, places=3, d=4, moved=2):
    """Vectors of n prompts and of their anchors, shares, and which are moved."""
    rng = np.random.default_rng(seed)
    e, to = (torch.from_numpy(rng.normal(size=(n, places, d))) for _ in range(2))
    by = torch.arange(n) < moved
    to = torch.where(by[:, None, None], to, e)
    return e, to, torch.from_numpy(rng.dirichlet(np.ones(n))), by


def loss(m, e, to, shares, by, held, ridge):
    """The sum of squares as it is written, prompt by prompt."""
    new = e + e @ m.T
    each = (new - to).square().sum(-1).mean(1)
    far = torch.where(by, 1.0, held * torch.ones(len(by), dtype=e.dtype))
    return (shares * far * each).sum() + ridge * m.square().sum()


@given(seeds, st.floats(0, 100), st.floats(1e-3, 1))
def test_the_change_is_the_least_of_the_sum_of_squares(seed, held, ridge):
    e, to, shares, by = told(seed)
    m, gram = minimiser(sums_of(e, to, shares, by), held, ridge)
    at = m.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(at, e, to, shares, by, held, ridge), at)
    # A solve errs by the condition of G, which the ridge bounds, times rounding, in units of what is summed.
    values = torch.linalg.eigvalsh(gram)
    size = float(gram.abs().max()) * (1 + float(m.abs().max())) + float(to.abs().max() * e.abs().max())
    assert float(slope.abs().max()) <= 1e3 * EPS * size * max(1.0, float(values[-1] / values[0]) ** 0.5)


@given(seeds)
def test_what_is_left_is_the_sum_as_it_is_written(seed):
    e, to, shares, by = told(seed)
    rng = np.random.default_rng(seed)
    m, v = (torch.from_numpy(rng.normal(size=(4, 4))) for _ in range(2))
    norm = v.T @ v
    asked, kept = sums_of(e, to, shares, by).left(m, norm)
    far = ((e + e @ m.T - to) @ v.T).square().sum(-1).mean(1) * shares
    # Both are sums of fewer than a hundred products that may cancel: rounding is of the products' size.
    most = float(norm.abs().sum() * (1 + m.abs().sum()) ** 2 * torch.cat([e, to]).square().max())
    assert abs(float(asked - far[by].sum())) <= 100 * EPS * most
    assert abs(float(kept - far[~by].sum())) <= 100 * EPS * most


@given(seeds)
def test_sums_of_parts_are_those_of_all(seed):
    given_all = told(seed)
    parts = [sums_of(*(value[some] for value in given_all)) for some in (slice(0, 2), slice(2, 6))]
    whole, both = sums_of(*given_all), parts[0] + parts[1]
    for name in Sums.__dataclass_fields__:
        torch.testing.assert_close(getattr(both, name), getattr(whole, name), rtol=64 * EPS, atol=64 * EPS)


def lines(seed, n, noise=0.0, d=6):
    """Prompts that differ along one direction when they ask, their anchors without it, and others, in four parts."""
    rng = np.random.default_rng(seed)
    concept = rng.normal(size=d)
    plain = rng.normal(size=(2 * n, 1, d))
    plain -= (plain @ concept)[..., None] * concept / (concept @ concept)
    e = plain + np.where(np.arange(2 * n)[:, None, None] < n, concept, 0)
    to = plain + noise * np.where(np.arange(2 * n)[:, None, None] < n, rng.normal(size=plain.shape), 0)
    by, shares = torch.arange(2 * n) < n, torch.full((2 * n,), 0.5 / n)
    every = torch.from_numpy(e), torch.from_numpy(to), shares, by
    return [sums_of(*(value[torch.arange(2 * n) % 4 == k] for value in every)) for k in range(4)], every


@settings(max_examples=30)  # sixty least squares each
@given(seeds)
def test_a_concept_that_is_one_direction_is_believed_and_taken_off(seed):
    folds, (e, to, _, by) = lines(seed, 40)
    change = change_of(folds, torch.eye(6, dtype=torch.float64))
    assert change.believed
    new = e + e @ change.m.T
    assert float((new - to)[by].square().sum()) < 0.05 * float((e - to)[by].square().sum())
    assert float((new - e)[~by].square().sum()) < 0.05 * float(e[~by].square().sum())


@given(seeds)
def test_anchors_that_follow_from_nothing_are_not_believed(seed):
    """Every asked prompt has another's words for its anchor: what some of them say is of no use for the rest."""
    folds, _ = lines(seed, 20, noise=3.0)
    assert not change_of(folds, torch.eye(6, dtype=torch.float64)).believed


def test_neither_is_a_single_prompt_which_cannot_be_left_out():
    folds, _ = lines(0, 40)
    alone, others = folds[0], [Sums(*(0 * s.asked, 0 * s.across, 0 * s.anchors, s.kept)) for s in folds[1:]]
    assert not change_of([alone, *others], torch.eye(6, dtype=torch.float64)).believed
    assert change_of([alone], torch.eye(6, dtype=torch.float64)) is None


@settings(max_examples=30)  # sixty least squares each
@given(seeds, st.integers(1, 4))
def test_factors_are_the_nearest_of_their_rank_where_prompts_are(seed, rank):
    folds, _ = lines(seed, 40)
    change = change_of(folds, torch.eye(6, dtype=torch.float64))
    v = torch.from_numpy(np.random.default_rng(seed).normal(size=(5, 6)))
    left, right = change.factors(v, rank)
    assert left.shape == (5, rank)
    assert right.shape == (rank, 6)
    full = torch.linalg.svdvals(v @ change.m @ change.root)
    missed = torch.linalg.matrix_norm((v @ change.m - left @ right) @ change.root)
    best = full[rank:].square().sum().sqrt()
    # root and inverse are of eigenvalues that span at most 1 / RIDGES[0] times their mean.
    assert float(missed) == pytest.approx(float(best), abs=1e4 * EPS * float(full[0]) / RIDGES[0] ** 0.5)


@pytest.mark.parametrize(("held", "ridge"), [(-1.0, 1e-3), (1.0, 0.0), (float("nan"), 1.0)])
def test_values_that_cannot_be_are_refused(held, ridge):
    with pytest.raises(ValueError, match=r"held must be at least 0 and ridge above 0"):
        minimiser(sums_of(*told(0)), held, ridge)
