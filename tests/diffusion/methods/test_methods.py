"""Every method by name: gradients through a network, exact resumption, and what stops a run."""

import numpy as np
import pytest
import torch

import duality as du
from diffusion.methods import METHODS, GuidanceDistillation, PrimalDual
from diffusion.methods.base import FitContext
from diffusion.methods.primal_dual import Alternation, blended
from diffusion.tasks.config import FitConfig
from diffusion.training.lora import add_student
from duality.primal_dual import NuPI
from tests.diffusion.methods.conftest import SMALL, Stop, adapters, made, make_denoiser, make_survey, same, stop_after
from tests.marks import slow_but

ALTERNATE = PrimalDual(inner=1, warmup=0, gain=0.2, samples=4, noise_levels=1)
SHORT = {name: made(name) for name in METHODS if name != "primal-dual"}
SHORT |= {f"primal-dual, {name}": ALTERNATE for name in ("forward", "likelihood", "reverse")}
SHORT["primal-dual, nuPI"] = PrimalDual(inner=1, warmup=1, gain=0.2, rule=NuPI, samples=4, noise_levels=1)
SHORT["primal-dual, in mid-round"] = PrimalDual(inner=3, warmup=0, gain=0.2, samples=4, noise_levels=1)


def solution_for(name, solutions):
    return solutions.get(name.removeprefix("primal-dual, "), solutions["likelihood"])


@pytest.mark.parametrize("name", slow_but(SHORT, "tilted", "guidance", "esd", "primal-dual, in mid-round"))
def test_resumed_run_ends_bit_equal(name, denoiser, estimate, solutions, tmp_path):
    settings, path = (
        FitConfig(max_train_steps=4, train_batch_size=3, rank=1, learning_rate=1e-2, seed=1),
        tmp_path / "fit.safetensors",
    )
    method, solution = SHORT[name], solution_for(name, solutions)
    whole = method.fit(FitContext(denoiser, estimate, solution, settings))
    expected = adapters(denoiser)
    assert len(whole.losses) == 4
    with pytest.raises(Stop):
        method.fit(FitContext(denoiser, estimate, solution, settings, checkpoint=path, every=2, progress=stop_after(3)))
    resumed = method.fit(FitContext(denoiser, estimate, solution, settings, checkpoint=path, every=2))
    assert resumed.losses == whole.losses
    np.testing.assert_array_equal(resumed.multipliers, whole.multipliers)
    np.testing.assert_array_equal(resumed.levels, whole.levels)
    assert same(adapters(denoiser), expected)
    if name.startswith("primal-dual"):
        rounds = 2 if "mid-round" in name else 4
        assert whole.multipliers.shape == (rounds + 1, 2)  # before each round, and after the last
        assert whole.levels.shape == whole.errors.shape == (rounds, 2)
        assert not np.array_equal(whole.multipliers[0], whole.multipliers[-1])


@pytest.mark.parametrize("name", ["guidance", "primal-dual, likelihood"])
def test_nan_stops_before_the_weights_take_it_and_the_checkpoint_stays(name, denoiser, estimate, solutions, tmp_path):
    from dataclasses import replace

    path = tmp_path / "fit.safetensors"
    settings = FitConfig(max_train_steps=4, train_batch_size=3, rank=1, seed=1)
    with pytest.raises(Stop):
        SHORT[name].fit(
            FitContext(
                denoiser, estimate, solutions["likelihood"], settings, checkpoint=path, every=2, progress=stop_after(3)
            )
        )
    kept = path.read_bytes()
    broken = replace(estimate, anchor=estimate.anchor * float("nan"))
    with pytest.raises(FloatingPointError, match="unet returned NaN or inf"):
        SHORT[name].fit(FitContext(denoiser, broken, solutions["likelihood"], settings, checkpoint=path, every=2))
    assert path.read_bytes() == kept
    assert all(torch.isfinite(value).all() for value in adapters(denoiser).values())


@pytest.mark.parametrize("rank", [1, None], ids=["LoRA", "all weights"])
@pytest.mark.parametrize("name", ["guidance", "forward", "likelihood", "reverse"])
def test_gradient_through_the_network(name, rank, solutions):
    """The derivative of one step's loss along a random direction in what is trained, in double precision."""
    denoiser, estimate = make_denoiser(), make_survey(torch.float64)
    denoiser.network.double()
    settings = FitConfig(max_train_steps=1, train_batch_size=4, rank=rank or 1, full_weights=rank is None, seed=1)
    if name == "guidance":
        parameters = add_student(denoiser, rank, 1)
        objective = GuidanceDistillation().objective(FitContext(denoiser, estimate, solutions["likelihood"], settings))
    else:
        run = Alternation(ALTERNATE, FitContext(denoiser, estimate, solutions[name], settings))
        parameters, objective = run.trainer.parameters, run.objective
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # away from the start, where the adapters do nothing and half of their gradients vanish
        for parameter in parameters:
            parameter.add_((0.05 if rank else 0.01) * torch.randn(parameter.shape, generator=generator))
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]

    start = [parameter.detach().clone() for parameter in parameters]

    def value(shift):
        with torch.no_grad():
            for parameter, p, d in zip(parameters, start, direction, strict=True):
                parameter.copy_(p + shift * d)
        return objective(0, torch.Generator().manual_seed(2))

    gradients = torch.autograd.grad(value(0.0), parameters, materialize_grads=True)
    along = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
    h = 1e-5
    numeric = float((value(h) - value(-h)).detach()) / (2 * h)
    assert along == pytest.approx(numeric, rel=1e-4)
    assert abs(along) > 1e-6


def test_guided_share_of_a_loss_has_its_gradient_and_its_optimum():
    """beta = 0 is the loss itself; beta = 1 has the guided output T + G as its optimum; linear in between."""
    generator = torch.Generator().manual_seed(2)
    f, y, goal = (torch.randn(3, 2, generator=generator, dtype=torch.float64) for _ in range(3))

    def gradient(at, beta):
        at = at.clone().requires_grad_()
        blended((at - y).square().mean(), at, goal, beta).backward()
        return at.grad

    own, guided = 2 * (f - y) / f.numel(), 2 * (f - goal) / f.numel()
    np.testing.assert_allclose(gradient(f, 0.0), own, rtol=1e-12)
    np.testing.assert_allclose(gradient(goal, 1.0), 0, atol=1e-12)
    np.testing.assert_allclose(gradient(f, 0.3), 0.7 * own + 0.3 * guided, rtol=1e-10)


def test_levels_of_an_untrained_student_are_those_of_q(denoiser, estimate, solutions):
    """Before the first step p = q: ForwardKL's estimate is the solver's own number, with nothing given up."""
    run = Alternation(ALTERNATE, FitContext(denoiser, estimate, solutions["forward"], SMALL))
    q = run.problem.levels_of(estimate.ratios, estimate.ratios.log_weights)
    np.testing.assert_allclose(run.meter.measure(0).levels, q, atol=1e-5)
    run = Alternation(ALTERNATE, FitContext(denoiser, estimate, solutions["reverse"], SMALL))
    found = run.meter.measure(0)
    from diffusion.ratios.classifier_ratios import classifier_ratios

    rho = classifier_ratios(denoiser, estimate.classifier, found.samples, seed=4 * 100_003 + 50_000)
    np.testing.assert_allclose(found.levels, -rho.double().mean(0), atol=1e-5)


def test_multipliers_stay_in_the_domain_of_the_samples(denoiser, estimate, solutions):
    run = Alternation(ALTERNATE, FitContext(denoiser, estimate, solutions["forward"], SMALL))
    projected = run.project(np.array([5.0, 5.0]))
    assert (estimate.values.double().exp().numpy() @ projected).max() == pytest.approx(1.0)
    assert np.array_equal(run.project(run.rounds.multipliers), run.rounds.multipliers)


def test_a_run_that_has_settled_ends_early(denoiser, estimate, solutions):
    run = Alternation(
        PrimalDual(inner=1, warmup=0, samples=6, noise_levels=2, patience=2),
        FitContext(denoiser, estimate, solutions["likelihood"], SMALL),
    )
    asked = run.problem.levels

    class Told:
        def measure(self, round_):
            from diffusion.methods.level_estimates import Measured

            return Measured(asked.copy(), np.full(2, 1e-3), estimate.anchor)

    run.meter = Told()
    outcome = run.run()
    assert len(outcome.losses) == 2
    np.testing.assert_allclose(outcome.multipliers[-1], outcome.multipliers[0])


def test_bad_settings_are_refused_before_any_work(denoiser, estimate, solutions):
    with pytest.raises(ValueError, match="inner must be at least 1"):
        PrimalDual(inner=0).fit(FitContext(denoiser, estimate, solutions["likelihood"], SMALL))
    assert set(METHODS) >= {"tilted", "guidance", "primal-dual"}
    assert isinstance(du.Likelihood(0.1), du.Problem)
