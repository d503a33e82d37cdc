"""The solver against CVXPY, and the solver's absence of CVXPY."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from instances import finite_space, own_levels, worked_mixture

import duality as du

with_cvxpy = pytest.mark.skipif(importlib.util.find_spec("cvxpy") is None, reason="CVXPY is not installed: [reference]")

FACTORS = {
    "reverse": lambda own, rng: du.ReverseKL(own * rng.uniform(0.8, 1.8, size=own.size)),
    "forward": lambda own, rng: du.ForwardKL(own * rng.uniform(0.9, 1.15, size=own.size)),
    "posterior": lambda own, rng: du.Likelihood(own * rng.uniform(0.7, 1.1, size=own.size)),
    "density": lambda own, rng: du.Likelihood(own * rng.uniform(0.7, 1.1, size=own.size), kind="density"),
    "log-ratio": lambda own, rng: du.Likelihood(own - rng.uniform(-0.1, 0.2, size=own.size), kind="log-ratio"),
}
BASE = {
    "reverse": du.ReverseKL(0.0),
    "forward": du.ForwardKL(0.0),
    "posterior": du.Likelihood(1.0),
    "density": du.Likelihood(1.0, kind="density"),
    "log-ratio": du.Likelihood(1.0, kind="log-ratio"),
}


@with_cvxpy
@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("kind", FACTORS)
def test_value_and_multipliers(kind, m):
    rng = np.random.default_rng(m)
    ratios = finite_space(rng, 120, m, spread=0.8)
    problem = FACTORS[kind](own_levels(BASE[kind], ratios), rng)
    ours, theirs = du.solve(problem, ratios), du.reference.solve(problem, ratios)
    # Clarabel stops at a relative gap of 1e-11 where its arithmetic allows, often at 1e-9, and at 1e-7 at worst, which
    # is a matter of the order of its sums; multipliers, found where the function is flat, are good to the root of that.
    np.testing.assert_allclose(ours.dual, theirs.value, rtol=1e-6, atol=1e-8)
    scale = np.abs(ours.multipliers).max() + 1e-3
    np.testing.assert_allclose(ours.multipliers, theirs.multipliers, atol=np.sqrt(1e-7) * scale)
    if theirs.log_weights is not None:
        np.testing.assert_allclose(np.exp(ours.log_weights), np.exp(theirs.log_weights), atol=1e-6)


@with_cvxpy
def test_worked_mixture_in_both():
    ratios = worked_mixture(31)
    for problem in (du.ReverseKL(30.0), du.ForwardKL(4.0), du.Likelihood(0.01)):
        np.testing.assert_allclose(du.solve(problem, ratios).dual, du.reference.solve(problem, ratios).value, rtol=1e-6)


@with_cvxpy
def test_value_beyond_the_critical_level():
    # Not attained in the continuum; on nodes the dual value is the same to the mass of the extreme node.
    ratios = worked_mixture(31)
    problem = du.ForwardKL(22.0)
    ours = du.solve(problem, ratios)
    assert not ours.attained
    np.testing.assert_allclose(ours.dual, du.reference.solve(problem, ratios).value, rtol=1e-5)


def test_the_core_needs_neither_torch_nor_cvxpy():
    code = (
        "import sys, numpy as np; sys.modules['cvxpy'] = None; sys.modules['torch'] = None; import duality as du\n"
        "s = du.solve(du.ReverseKL(1.0), du.LogRatios(np.linspace(-1, 1, 999)))\n"
        "assert s.attained and str(s) and s.guidance(np.zeros((2, 1))).shape == (2, 1)\n"
        "for call in (lambda: du.reference, lambda: du.primal_dual.NuPI(1.0)):\n"
        "    try: call()\n"
        "    except ImportError as e: print(e)\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert "unlearning-duality[reference]" in done.stdout
    assert "unlearning-duality[torch]" in done.stdout
