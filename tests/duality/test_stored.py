"""Ratios in single precision and in files: read block by block, with sums in double precision, never copied whole."""

import gc
import tracemalloc
import warnings

import numpy as np
import pytest
from instances import finite_space, mixture_draws, own_levels
from kkt import assert_optimal

import duality as du
from duality import passes

PROBLEMS = {
    "reverse": lambda own: du.ReverseKL(own(du.ReverseKL(0.0)) + 0.7),
    "forward": lambda own: du.ForwardKL(own(du.ForwardKL(0.0)) * 1.1),
    "posterior": lambda own: du.Likelihood(own(du.Likelihood(1.0)) * 0.6),
    "log-ratio": lambda own: du.Likelihood(own(du.Likelihood(0.0, kind="log-ratio")) - 0.4, kind="log-ratio"),
}


def mapped(folder, table, order="C"):
    """The same table in a file."""
    path = folder / f"{table.dtype}{order}.dat"
    file = np.memmap(path, dtype=table.dtype, mode="w+", shape=table.shape, order=order)
    file[...] = table
    file.flush()
    return np.memmap(path, dtype=table.dtype, mode="r", shape=table.shape, order=order)


def same(found, expected):
    np.testing.assert_allclose(found.multipliers, expected.multipliers, rtol=1e-9)
    np.testing.assert_allclose(found.dual, expected.dual, rtol=1e-12)
    assert found.status is expected.status


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_file_is_solved_as_what_is_in_it(name, dtype, order, tmp_path, monkeypatch):
    monkeypatch.setattr(passes, "BLOCK", 3000)  # tiny blocks: six of them
    given = finite_space(np.random.default_rng(0), 6000, 3)
    table = given.values.astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", du.MassWarning)  # single precision leaves masses off by 1e-8
        whole = du.LogRatios(table.astype(np.float64), given.log_weights, priors=given.priors)
        filed = du.LogRatios(mapped(tmp_path, table, order), given.log_weights, priors=given.priors)
        assert isinstance(filed.stored, np.memmap)
        assert filed.stored.dtype == dtype
        np.testing.assert_array_equal(filed.values, whole.values)
        problem = PROBLEMS[name](lambda asked: own_levels(asked, whole))
        found = du.solve(problem, filed)
        same(found, du.solve(problem, whole))
        assert_optimal(found, whole)
        np.testing.assert_allclose(filed.masses, whole.masses, rtol=1e-14)


@pytest.mark.parametrize("name", PROBLEMS)
def test_single_precision_is_kept_and_summed_in_double(name):
    given = finite_space(np.random.default_rng(1), 5000, 2)
    table = given.values.astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", du.MassWarning)
        kept = du.LogRatios(table, given.log_weights, priors=given.priors)
        assert kept.stored.dtype == np.float32
        assert kept.values.dtype == np.float64
        assert kept.precision == np.finfo(np.float32).eps
        whole = du.LogRatios(table.astype(np.float64), given.log_weights, priors=given.priors)
        problem = PROBLEMS[name](lambda asked: own_levels(asked, whole))
        found = du.solve(problem, kept)
        same(found, du.solve(problem, whole))
    assert found.gap < 1e-10  # far below what single precision could tell


def test_single_precision_is_apart_from_its_source():
    source = np.zeros((4, 1), dtype=np.float32, order="F")
    ratios = du.LogRatios(source)
    source[0] = 7.0
    assert ratios.values[0, 0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        ratios.stored[0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        ratios.values[0] = 1.0


@pytest.mark.parametrize("entry", [np.nan, np.inf])
def test_what_is_no_ratio_is_found_in_a_file_too(entry, tmp_path):
    table = np.zeros((5000, 2), dtype=np.float32)
    table[4321, 1] = entry
    for given in (table, mapped(tmp_path, table)):
        with pytest.raises(ValueError, match=f"values: {entry} at point 4321, constraint 1"):
            du.LogRatios(given)
    with pytest.raises(ValueError, match="values: shape"):
        du.LogRatios(np.zeros((2, 2, 2), dtype=np.float32))
    with pytest.raises(ValueError, match="values: empty"):
        du.LogRatios(np.zeros((0, 2), dtype=np.float32))


def test_a_file_without_weights_and_with_absent_ratios(tmp_path):
    table = np.random.default_rng(2).normal(size=(4000, 2))
    table[::3, 1] = -np.inf
    table -= np.log(np.exp(table).mean(axis=0))
    filed, whole = du.LogRatios(mapped(tmp_path, table)), du.LogRatios(table)
    np.testing.assert_array_equal(filed.log_weights, whole.log_weights)
    for problem in (du.ForwardKL([0.6, 0.9]), du.ReverseKL([0.6, 0.1])):
        one, other = du.solve(problem, filed), du.solve(problem, whole)
        same(one, other)
        np.testing.assert_allclose(one.multipliers_stderr, other.multipliers_stderr, rtol=1e-8)
        np.testing.assert_allclose(one.levels_stderr, other.levels_stderr, rtol=1e-8)


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
def test_other_problems_read_files_as_well(tmp_path):
    draws = mixture_draws(np.random.default_rng(3), 2000, concepts=(0, 2))
    filed = du.LogRatios(mapped(tmp_path, draws.values), priors=draws.priors)
    grouped = {"groups": np.arange(2000) % 4}
    for problem, more in (
        (du.Keep(0.2, kind="posterior"), {}),
        (du.Joint([du.ReverseKL(26.0), du.Likelihood(0.2)]), {}),
        (du.Renyi(0.1), {}),
        (du.ReverseKL(20.0), grouped),
        (du.ForwardKL(2.0), grouped),
    ):
        one, other = (
            du.LogRatios(table, priors=draws.priors, **more) for table in (filed.stored, np.array(draws.values))
        )
        same(du.solve(problem, one), du.solve(problem, other))


def peak(call):
    tracemalloc.start()
    call()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("m", [1, 4])
@pytest.mark.parametrize("draws", [False, True])
def test_memory_stays_within_twice_the_input(name, m, draws):
    given = finite_space(np.random.default_rng(4), 400_000, m, spread=0.5)
    if draws:
        given = du.LogRatios(given.values, priors=given.priors).normalise()
    problem = PROBLEMS[name](lambda asked: own_levels(asked, given))
    # Besides, a few blocks at a time, whatever n is: here they show.
    assert peak(lambda: du.solve(problem, given)) <= 2 * given.values.nbytes + 4 * 8 * passes.BLOCK


@pytest.mark.parametrize("name", PROBLEMS)
def test_of_a_file_only_vectors_are_in_memory(name, tmp_path, monkeypatch):
    n, m = 400_000, 6
    monkeypatch.setattr(passes, "BLOCK", 12_000)
    given = finite_space(np.random.default_rng(5), n, m, spread=0.5)
    given = du.LogRatios(given.values, priors=given.priors).normalise()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", du.MassWarning)
        ratios = du.LogRatios(mapped(tmp_path, given.values.astype(np.float32)), priors=given.priors)
        problem = PROBLEMS[name](lambda asked: own_levels(asked, ratios))
        # The log masses of the answer, one more vector at a time, and one node in fifty.
        assert peak(lambda: du.solve(problem, ratios)) <= 2.5 * 8 * n + 8 * n * m // 20


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("draws", [False, True])
def test_what_a_solve_made_goes_at_once(name, draws):
    """Tables of its own are in no cycle of references, which would keep them until somebody collects these."""
    given = finite_space(np.random.default_rng(6), 200_000, 2, spread=0.5)
    if draws:
        given = du.LogRatios(given.values, priors=given.priors).normalise()
    problem = PROBLEMS[name](lambda asked: own_levels(asked, given))
    du.solve(problem, given)  # what ratios keep for good they have now
    gc.collect()
    gc.disable()
    try:
        tracemalloc.start()
        du.solve(problem, given)
        left = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    finally:
        gc.enable()
    assert left < given.values.nbytes // 10


@pytest.mark.slow
@pytest.mark.parametrize("draws", [False, True])
@pytest.mark.parametrize("m", [1, 2, 4])
def test_a_solve_allocates_no_more_than_twice_its_table(m, draws):
    given = finite_space(np.random.default_rng(0), 1_000_000, m, spread=0.7)
    if draws:
        given = du.LogRatios(given.values, priors=given.priors).normalise()
    for name in ("reverse", "forward", "posterior"):
        problem = PROBLEMS[name](lambda asked: own_levels(asked, given))
        found = []
        assert (
            peak(lambda problem=problem, found=found: found.append(du.solve(problem, given))) <= 2 * given.values.nbytes
        )
        assert found[0].gap <= 1e-10
