"""Points that are spread over processes: the same answer as in one, with nodes where they are."""

import multiprocessing
import threading

import numpy as np
import pytest
from instances import finite_space, own_levels

import duality as du
from duality.shards import sharing, total

PROBLEMS = {
    "reverse": lambda own: du.ReverseKL(own(du.ReverseKL(0.0)) + 0.7),
    "forward": lambda own: du.ForwardKL(own(du.ForwardKL(0.0)) * 1.1),
    "posterior": lambda own: du.Likelihood(own(du.Likelihood(1.0)) * 0.6),
    "log-ratio": lambda own: du.Likelihood(own(du.Likelihood(0.0, kind="log-ratio")) - 0.4, kind="log-ratio"),
}


class Meeting:
    """Processes as threads of one, that meet at a barrier to sum what they have; counts what is exchanged."""

    def __init__(self, count):
        self.count, self.sums, self.exchanged = count, [None] * count, 0
        self.barrier = threading.Barrier(count, timeout=15)

    def shards(self, rank):
        def all_reduce(values):
            self.sums[rank] = values
            self.barrier.wait()
            found = np.sum(self.sums, axis=0)
            self.exchanged += values.size if rank == 0 else 0
            self.barrier.wait()
            return found

        return du.Shards(rank, self.count, all_reduce)

    def run(self, work):
        found = [None] * self.count

        def one(rank):
            try:
                found[rank] = work(rank, self.shards(rank))
            except du.InfeasibleError as error:  # which all are to raise
                found[rank] = error
            except BaseException:
                self.barrier.abort()
                raise

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert None not in found
        return found


def part(ratios, rank, count):
    """The points of one process, uneven on purpose, and the part of q's mass that they have."""
    ends = (ratios.n * np.linspace(0, 1, count + 1) ** 1.5).astype(int)
    chosen = slice(ends[rank], ends[rank + 1])
    weights = ratios.log_weights[chosen]
    mass = float(np.exp(weights).sum())
    return chosen, weights - np.log(mass), mass


def shared_out(ratios, rank, shards, draws):
    chosen, weights, mass = part(ratios, rank, shards.count)
    own = du.LogRatios(ratios.values[chosen], None if draws else weights, priors=ratios.priors)
    return chosen, own.shared(shards, None if draws else mass)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("draws", [False, True])
@pytest.mark.parametrize("name", PROBLEMS)
def test_points_of_several_processes_are_solved_as_those_of_one(name, draws, count):
    ratios = finite_space(np.random.default_rng(0), 3000, 3, spread=0.5)
    if draws:
        ratios = du.LogRatios(ratios.values, priors=ratios.priors).normalise()
    problem = PROBLEMS[name](lambda asked: own_levels(asked, ratios))
    alone = du.solve(problem, ratios)
    meeting = Meeting(count)

    def work(rank, shards):
        chosen, own = shared_out(ratios, rank, shards, draws)
        return chosen, du.solve(problem, own)

    found = meeting.run(work)
    first = found[0][1]
    for chosen, solution in found:
        np.testing.assert_array_equal(solution.multipliers, first.multipliers)  # the same steps, to the last bit
        assert (solution.dual, solution.status) == (first.dual, alone.status)
        np.testing.assert_allclose(solution.log_weights, alone.log_weights[chosen], atol=1e-9)
    np.testing.assert_allclose(first.multipliers, alone.multipliers, rtol=1e-9)
    np.testing.assert_allclose([first.dual, first.primal], [alone.dual, alone.primal], rtol=1e-11)
    np.testing.assert_allclose(first.levels, alone.levels, rtol=1e-9)
    np.testing.assert_allclose(first.effective_sample_size, alone.effective_sample_size, rtol=1e-9)
    assert first.gap < 1e-10
    if draws:
        np.testing.assert_allclose(first.multipliers_stderr, alone.multipliers_stderr, rtol=1e-7)
        np.testing.assert_allclose(first.primal_stderr, alone.primal_stderr, rtol=1e-9)
        assert np.isnan(first.levels_stderr).all()
    # A few dozen numbers for each pass and process, and no node among them.
    if count > 1:
        assert 0 < meeting.exchanged < 60 * 60 * count


def test_levels_out_of_reach_are_so_for_all_processes():
    ratios = finite_space(np.random.default_rng(1), 400, 2)
    least = (ratios.priors * np.exp(ratios.values)).min(axis=0)
    for level in (least * 0.5, least * 1.0001):  # below each alone, and both at once

        def work(rank, shards, level=level):
            _, own = shared_out(ratios, rank, shards, False)
            return du.solve(du.Likelihood(level), own)

        found = Meeting(2).run(work)
        assert all(isinstance(each, du.InfeasibleError) for each in found)
        assert all(np.isnan(each.least).all() for each in found)


def test_what_would_need_all_points_at_once_is_said_not_to_be_known():
    # ForwardKL at a level that no density attains: the lower bound holds, and nothing is called proved.
    ratios = finite_space(np.random.default_rng(2), 300, 1, spread=0.3)
    alone = du.solve(du.ForwardKL(60.0), ratios)
    assert alone.status is du.Status.NOT_ATTAINED

    def work(rank, shards):
        return du.solve(du.ForwardKL(60.0), shared_out(ratios, rank, shards, False)[1])

    for found in Meeting(2).run(work):
        assert found.status is du.Status.INEXACT
        assert found.bound == np.inf
        assert found.dual <= alone.dual * (1 + 1e-9)


def test_what_is_refused():
    ratios = finite_space(np.random.default_rng(3), 100, 2)
    one = du.Shards(0, 1, lambda values: values)
    with pytest.raises(ValueError, match="rank: 2 of 2 given"):
        du.Shards(2, 2, lambda values: values)
    with pytest.raises(ValueError, match=r"share: 0\.5 given, and 0\.5 by all processes"):
        ratios.shared(one, 0.5)
    with pytest.raises(ValueError, match="share: 0 given"):
        ratios.shared(one, 0)
    with pytest.raises(ValueError, match="shards: points in groups"):
        du.LogRatios(ratios.values, groups=np.arange(100) % 2).shared(one)
    with pytest.raises(ValueError, match="problem: Keep given"):
        du.solve(du.Keep(0.1, kind="posterior"), ratios.shared(one, 1.0))
    with pytest.raises(ValueError, match="workers: 0 given"):
        du.solve(du.ReverseKL(1.0), ratios, workers=0)
    with sharing(None):
        assert total(3.0) == 3.0


def worker(rank, count, address, results):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=count)
    try:
        ratios = finite_space(np.random.default_rng(4), 2000, 2, spread=0.5)
        shards = du.Shards.of_torch()
        found = []
        for name in ("reverse", "forward", "posterior"):
            problem = PROBLEMS[name](lambda asked: own_levels(asked, ratios))
            found.append(du.solve(problem, shared_out(ratios, rank, shards, False)[1]).multipliers.tolist())
        results.put((rank, found))
    finally:
        torch.distributed.destroy_process_group()


def test_two_processes_by_gloo(tmp_path):
    pytest.importorskip("torch")
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    address = f"file://{tmp_path}/meet"
    processes = [context.Process(target=worker, args=(rank, 2, address, results)) for rank in range(2)]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(timeout=60)
    assert found[0] == found[1]
    ratios = finite_space(np.random.default_rng(4), 2000, 2, spread=0.5)
    for name, multipliers in zip(("reverse", "forward", "posterior"), found[0], strict=True):
        alone = du.solve(PROBLEMS[name](lambda asked: own_levels(asked, ratios)), ratios)
        np.testing.assert_allclose(multipliers, alone.multipliers, rtol=1e-9)
