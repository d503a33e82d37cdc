"""Tensors on a device of their own: solved there, to the answers that NumPy gives, with only a few numbers coming back.

Tensors of the CPU stand for those of an accelerator here: `stays` is told that they are such. What must not come back
is noticed because a tensor as large as the table refuses to be read; what is mixed with the CPU, on the meta device.
"""

import numpy as np
import pytest
from instances import finite_space, own_levels

import duality as du
from duality import ratios as of_ratios
from duality import tensor_columns, tensor_means, tensor_mixture, tensor_tilt
from duality.dual_protocol import rounding

torch = pytest.importorskip("torch")

from tests.duality.test_shards import Meeting

PROBLEMS = {
    "reverse": lambda own: du.ReverseKL(own(du.ReverseKL(0.0)) + 0.7),
    "forward": lambda own: du.ForwardKL(own(du.ForwardKL(0.0)) * 1.1),
    "posterior": lambda own: du.Likelihood(own(du.Likelihood(1.0)) * 0.6),
    "log-ratio": lambda own: du.Likelihood(own(du.Likelihood(0.0, kind="log-ratio")) - 0.4, kind="log-ratio"),
}
TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture
def elsewhere(monkeypatch):
    """Tensors count as lying on a device of their own, and blocks are small: several of them."""
    monkeypatch.setattr(of_ratios, "stays", lambda values: hasattr(values, "detach") and values.is_floating_point())
    monkeypatch.setattr(tensor_columns, "BLOCK", 6000)


@pytest.fixture
def closed(monkeypatch):
    """A function that closes tensors of so many numbers or more to everything that reads them into the CPU's memory."""

    def close(count):
        for name in ("numpy", "cpu", "tolist", "__array__", "item"):
            known = getattr(torch.Tensor, name)

            def guarded(tensor, *given, known=known, **named):
                assert tensor.numel() < count, f"{tensor.numel()} numbers are read"
                return known(tensor, *given, **named)

            monkeypatch.setattr(torch.Tensor, name, guarded)

    return close


def instance(n, m, draws, dtype=torch.float64, seed=0):
    """Ratios of laws, as NumPy's of their values in a type, and the tensor itself."""
    given = finite_space(np.random.default_rng(seed), n, m, spread=0.7)
    weights = None if draws else given.log_weights
    if draws:
        given = du.LogRatios(given.values, priors=given.priors).normalise()
    table = torch.tensor(np.array(given.values)).to(dtype)
    return du.LogRatios(table.double().numpy(), weights, priors=given.priors), table, weights


def same(found, expected, ratios):
    """Both are maxima of one concave function: how far apart they may be follows from what each is certified to.

    A residual of r units in the gradient moves the maximiser by the inverse Hessian times it, and the value by half of
    r times that; sums in another order move the value by `rounding`, whose terms here are a few times 1 + |value|.
    """
    assert found.status is expected.status
    assert max(found.gap, found.kkt_residual) <= 1e-10
    units = expected.problem.units(ratios)
    residual = (found.kkt_residual + expected.kkt_residual + 1e-14) * units
    active = expected.multipliers > 0
    np.testing.assert_array_equal(found.multipliers > 0, active)
    hessian = du.dual_function(expected.problem, ratios, expected.multipliers).hessian[np.ix_(active, active)]
    apart = np.abs(np.linalg.inv(hessian)) @ residual[active]
    moved = np.abs(found.multipliers - expected.multipliers)[active]
    assert (moved <= 2 * apart + 1e-13 * expected.multipliers[active]).all()
    size = 1.0 + abs(expected.dual) + float(expected.multipliers @ np.abs(expected.problem.levels))
    assert abs(found.dual - expected.dual) <= float(apart @ residual[active]) + rounding(size, 4 * size, ratios.n)


@pytest.mark.filterwarnings("ignore::duality.MassWarning")  # of rounded ratios
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("draws", [False, True])
def test_a_tensor_is_solved_as_what_is_in_it(name, dtype, draws, elsewhere):
    ratios, table, weights = instance(6000, 3, draws, dtype)
    lying = du.LogRatios(table, weights, priors=ratios.priors)
    assert lying.stored.dtype == dtype
    assert lying.precision == max(torch.finfo(dtype).eps, np.finfo(float).eps)
    np.testing.assert_array_equal(lying.values, ratios.values)
    problem = PROBLEMS[name](lambda asked: own_levels(asked, ratios))
    found, expected = du.solve(problem, lying), du.solve(problem, ratios)
    same(found, expected, ratios)
    np.testing.assert_allclose(lying.masses, ratios.masses, rtol=1e-13)
    if draws:
        np.testing.assert_allclose(found.primal_stderr, expected.primal_stderr, rtol=1e-7)
        np.testing.assert_allclose(found.multipliers_stderr, expected.multipliers_stderr, rtol=1e-7)
        np.testing.assert_allclose(found.levels_stderr, expected.levels_stderr, rtol=1e-7)
    np.testing.assert_allclose(found.log_weights, expected.log_weights, atol=1e-7)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("draws", [False, True])
def test_the_table_is_never_read_into_the_memory_of_the_cpu(name, draws, elsewhere, closed, monkeypatch):
    monkeypatch.setattr(tensor_columns, "BLOCK", 9999)
    ratios, table, weights = instance(6000, 3, draws)
    problem = PROBLEMS[name](lambda asked: own_levels(asked, ratios))
    closed(table.numel() // 2)  # log masses, one number for each node, are the answer
    found = du.solve(problem, du.LogRatios(table, weights, priors=ratios.priors))
    assert found.status is du.Status.OPTIMAL
    assert np.isfinite(found.primal_stderr) == draws
    with pytest.raises(AssertionError, match="are read"):  # and this would have been noticed
        _ = du.LogRatios(table, weights).values


@pytest.mark.parametrize("curved", [False, True])
def test_blocks_mix_nothing_of_the_cpu_with_the_device(curved):
    """On the meta device there are no numbers, and what is combined with a tensor that lies elsewhere is refused."""
    columns = tensor_columns.TensorColumns(torch.zeros(50, 3, device="meta", dtype=torch.bfloat16))
    part = slice(10, 30)
    rows = columns.rows(part)
    assert rows.dtype == torch.float64
    q, tilt = columns.logs(np.linspace(-3, -1, 50))[part], columns.number(np.ones(3)) @ rows
    for found, size in (
        (tensor_tilt.tilt_block(rows, q, tilt, curved), 8 + 9 * curved),
        (tensor_mixture.mixture_block(rows, q, tilt, tilt, curved), 6 + 12 * curved),
        (tensor_means.pull_block(tilt, rows), 2 + 6 + 9),
        (columns.made(lambda rows, part: rows[0]), 50),
    ):
        assert found.device.type == "meta"
        assert found.numel() == size
    with pytest.raises(RuntimeError, match="device"):
        tensor_tilt.tilt_block(rows, torch.zeros(20, dtype=torch.float64), tilt, curved)


def test_which_tensors_stay():
    class Apple:
        """A tensor of a device without doubles, as far as anybody asks."""

        device = torch.device("mps")

        def detach(self):
            return self

        def is_floating_point(self):
            return True

        def new_zeros(self, count):
            return self

        def double(self):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    assert not tensor_columns.stays(Apple())
    assert not tensor_columns.stays(torch.zeros(2, 2))  # NumPy reads the CPU's where they lie
    assert not tensor_columns.stays(torch.zeros(2, 2, device="meta", dtype=torch.int64))
    assert not tensor_columns.stays(np.zeros(2))
    assert isinstance(du.LogRatios(torch.zeros(4, 2)).stored, np.ndarray)


def test_what_is_no_ratio_is_found_on_a_device_too(elsewhere):
    for entry in (np.nan, np.inf):
        table = torch.zeros(5000, 2)
        table[4321, 1] = entry
        with pytest.raises(ValueError, match=f"values: {entry} at point 4321, constraint 1"):
            du.LogRatios(table)
    with pytest.raises(ValueError, match="values: shape"):
        du.LogRatios(torch.zeros(2, 2, 2))
    with pytest.raises(ValueError, match="values: empty"):
        du.LogRatios(torch.zeros(0, 2))
    with pytest.raises(ValueError, match="constraint 1 is -inf at every point"):
        du.LogRatios(torch.tensor([[0.0, -np.inf], [0.0, 1.0]]), [0.0, -np.inf])


def test_a_tensor_is_apart_from_its_source_and_from_its_graph(elsewhere):
    source = torch.zeros(4, requires_grad=True)
    ratios = du.LogRatios(source)
    with torch.no_grad():
        source[0] = 7.0
    assert ratios.stored.shape == (4, 1)
    assert not ratios.stored.requires_grad
    assert ratios.values[0, 0] == 0.0


@pytest.mark.parametrize("name", PROBLEMS)
def test_absent_ratios_and_nodes_without_weight(name, elsewhere):
    given = finite_space(np.random.default_rng(3), 3000, 2, spread=0.7)
    rho, log_q = np.array(given.values), np.array(given.log_weights)
    log_q[::7] = -np.inf
    log_q -= np.logaddexp.reduce(log_q)
    if name != "log-ratio":  # an expectation of -inf is met by q itself
        rho[::3, 1] = -np.inf
    rho -= np.log(np.exp(rho + log_q[:, None]).sum(axis=0))
    ratios, lying = (du.LogRatios(each, log_q, priors=given.priors) for each in (rho, torch.tensor(rho)))
    problem = PROBLEMS[name](lambda asked: np.minimum(own_levels(asked, ratios), 3.0))
    found, expected = du.solve(problem, lying), du.solve(problem, ratios)
    same(found, expected, ratios)
    np.testing.assert_array_equal(found.log_weights == -np.inf, log_q == -np.inf)


@pytest.mark.parametrize("name", ["reverse", "forward", "log-ratio"])
def test_climbs_that_need_finer_coordinates(name, elsewhere):
    """Large exponents, and a mixture close to its face: the base moves, and what is known there lies on the device."""
    rng = np.random.default_rng(5)
    if name == "forward":
        ratios, table, weights = instance(2000, 2, draws=False, seed=5)
        face = du.ForwardKL(own_levels(du.ForwardKL(0.0), ratios) * 1.02)
        near = du.solve(face, ratios)
        problem = du.ForwardKL(near.levels + np.array([1.5, 0.2]))
    else:
        rho = 1e-4 * np.array(rng.normal(size=(2000, 2)))
        table, weights = torch.tensor(rho), np.full(2000, -np.log(2000.0))
        ratios = du.LogRatios(rho, weights).normalise()
        table = torch.tensor(np.array(ratios.values))
        problem = du.ReverseKL(3.0) if name == "reverse" else du.Likelihood(-2.2e-4, kind="log-ratio")
    lying = du.LogRatios(table, weights)
    found, expected = du.solve(problem, lying), du.solve(problem, ratios)
    assert found.status is expected.status
    np.testing.assert_allclose(found.dual, expected.dual, rtol=1e-10)
    assert found.gap <= 1e-10


def test_what_has_no_answer_is_said_as_by_numpy(elsewhere):
    ratios, table, weights = instance(2000, 2, draws=False)
    lying = du.LogRatios(table, weights, priors=ratios.priors)
    with pytest.raises(du.InfeasibleError) as found:
        du.solve(du.Likelihood(1e-9), lying)
    with pytest.raises(du.InfeasibleError) as expected:
        du.solve(du.Likelihood(1e-9), ratios)
    np.testing.assert_allclose(found.value.least, expected.value.least, rtol=1e-9)
    beyond = du.ForwardKL(own_levels(du.ForwardKL(0.0), ratios) + 30.0)
    one, other = du.solve(beyond, lying), du.solve(beyond, ratios)
    assert one.status is other.status is du.Status.NOT_ATTAINED
    np.testing.assert_allclose(one.dual, other.dual, rtol=1e-9)
    mild = du.solve(du.ReverseKL(0.0), lying)
    assert mild.status is du.Status.INACTIVE


def test_views_and_other_problems(elsewhere):
    ratios, table, _ = instance(2000, 3, draws=True)
    lying = du.LogRatios(table, priors=ratios.priors)
    assert isinstance(lying.stored, torch.Tensor)
    off = du.LogRatios(table + 0.5, priors=ratios.priors)
    mended = off.normalise()
    assert isinstance(mended.stored, torch.Tensor)  # where it was
    np.testing.assert_allclose(mended.values, ratios.values, atol=1e-14)
    with pytest.warns(du.MassWarning):
        du.solve(du.ReverseKL(own_levels(du.ReverseKL(0.0), ratios)), off)
    places = np.arange(0, 2000, 3)
    np.testing.assert_array_equal(lying.some(places).values, ratios.some(places).values)
    np.testing.assert_array_equal(lying.select("values", [2, 0]).values, ratios.values[:, [2, 0]])
    mixed = du.Joint([du.ReverseKL(0.5), du.Likelihood(own_levels(du.Likelihood(1.0), ratios)[1:] * 0.9)])
    np.testing.assert_allclose(du.solve(mixed, lying).dual, du.solve(mixed, ratios).dual, rtol=1e-12)
    groups = np.arange(2000) % 4
    grouped = du.LogRatios(table, groups=groups)
    assert isinstance(grouped.stored, np.ndarray)
    problem = PROBLEMS["reverse"](lambda asked: own_levels(asked, ratios))
    one, other = (du.frontier(problem, each, [0.9, 1.0]) for each in (lying, ratios))
    for found, expected in zip(one, other, strict=True):
        same(found, expected, ratios)
    at = [du.dual_function(problem, each, [0.1, 0.0, 0.2]) for each in (lying, ratios)]
    np.testing.assert_allclose(at[0].hessian, at[1].hessian, rtol=1e-11)
    np.testing.assert_allclose(at[0].gradient, at[1].gradient, rtol=1e-12)


@pytest.mark.parametrize("name", ["reverse", "forward", "posterior"])
def test_parts_on_devices_of_several_processes(name, elsewhere):
    ratios, table, _ = instance(3000, 2, draws=True)
    problem = PROBLEMS[name](lambda asked: own_levels(asked, ratios))
    expected = du.solve(problem, ratios)
    parts = table[:1000], table[1000:]

    def work(rank, shards):
        return du.solve(problem, du.LogRatios(parts[rank], priors=ratios.priors).shared(shards))

    found = Meeting(2).run(work)
    for each in found:
        np.testing.assert_array_equal(each.multipliers, found[0].multipliers)
        same(each, expected, ratios)
