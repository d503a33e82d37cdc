"""Everything that touches a network runs on a device beside the CPU, which has no double precision: nothing is left
behind. That device is pretended, see `tests.diffusion.elsewhere`."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from diffusion.guidance.guided import Guided, constant
from diffusion.methods import FitContext, PrimalDual, method_of
from diffusion.methods.base import ImageFitContext
from diffusion.methods.chain import chain_of, path_cost
from diffusion.methods.guided_tilt import guided_objective
from diffusion.methods.images.primal_dual import ForgetImages
from diffusion.methods.images.tilted import TiltedImages
from diffusion.methods.likelihood import divergence, negative_elbo
from diffusion.methods.own_chain import Pool, Walkers, own_chain_objective
from diffusion.pipelines import denoiser_of
from diffusion.pipelines.latents import decode, encode
from diffusion.pipelines.sampling import sample_latents
from diffusion.ratios.classifier import RatioClassifier, noised_features, train_classifier
from diffusion.ratios.classifier_ratios import classifier_ratios
from diffusion.ratios.elbo import elbo_differences
from diffusion.ratios.foreseen import KNOTS, Foreseen, foresee
from diffusion.ratios.trajectory import path_ratios
from diffusion.tasks.config import FitConfig
from diffusion.tasks.detectors import DifferentiableDetector, detector_of
from diffusion.tasks.image_set import Images
from diffusion.tasks.prompts import Prompts
from diffusion.training.lora import add_lora
from tests.diffusion import families
from tests.diffusion.elsewhere import DEVICE, Elsewhere, MixedDevices, There, move
from tests.diffusion.methods.conftest import LEVELS, adapters
from tests.diffusion.methods.test_guided_tilt import data_of, noised_detector_of, samples_of
from tests.diffusion.pipelines.test_families import PROMPTS, asked
from tests.marks import slow_but

STEP = FitConfig(max_train_steps=1, train_batch_size=6, rank=1)


@pytest.fixture
def there():
    with Elsewhere(doubles=False):
        yield


def denoiser_there(family):
    return denoiser_of(move(families.build(families.FAMILIES[family])))


def test_what_a_gpu_would_refuse_is_refused(there):
    a, b = torch.ones(3).to(DEVICE), torch.ones(3)
    assert (a + 1).device == DEVICE
    assert float((a + a).sum()) == 6  # it has values
    for wrong in (
        lambda: a + b,
        lambda: torch.where(a > 0, a, b),
        lambda: b[torch.tensor([0]).to(DEVICE)],
        lambda: torch.randn(3, device=DEVICE, generator=torch.Generator()),
        lambda: a.numpy(),
        lambda: a.double(),
    ):
        with pytest.raises(MixedDevices):
            wrong()
    assert (a[torch.tensor([0, 2])] * torch.tensor(2.0)).device == DEVICE  # an index and a scalar of the CPU are fine
    np.testing.assert_array_equal((a + 1).cpu().numpy(), 2.0)


@pytest.mark.parametrize(
    ("name", "problem"),
    slow_but(
        product(("tilted", "guidance", "primal-dual"), LEVELS),
        *(("tilted", "reverse"), ("guidance", "likelihood"), ("primal-dual", "forward")),
    ),
)
def test_objectives(there, estimate, solutions, name, problem):
    denoiser = denoiser_there("sd")
    brief = PrimalDual(inner=1, samples=2, noise_levels=1)
    method = brief if name == "primal-dual" else method_of(name).uncorrected()
    outcome = method.fit(FitContext(denoiser, estimate, solutions[problem], STEP))
    assert np.isfinite(outcome.losses).all()
    assert all(isinstance(value, There) for value in adapters(denoiser).values())


def test_what_detectors_foresee(there):
    denoiser = denoiser_there("sd")
    detector = detector_of(DifferentiableDetector(lambda images: images.mean((1, 2, 3)) > 0, bright))
    estimate = replace(
        samples_of(denoiser, Prompts(["seven", "one"])), noised_detector=noised_detector_of(denoiser).to(DEVICE)
    )
    found = foresee(denoiser, estimate, [detector])
    assert not isinstance(found.coefficients, There)
    assert torch.isfinite(found.coefficients).all()


def bright(images):
    return 8 * images.mean((1, 2, 3))


@pytest.mark.parametrize("own_chain", [False, True, "foreseen"])
def test_objectives_of_detectors(there, own_chain):
    denoiser = denoiser_there("sd")
    parameters = add_lora(denoiser, 2, 0)
    data, head = data_of(denoiser, [3.0, 3.0], False), noised_detector_of(denoiser).to(DEVICE)

    def log_h(eta, _asked):
        return torch.log1p(-0.9 * eta[:, 0])

    if own_chain:
        walkers = Walkers(data, chain_of(denoiser, 2, 10), 6, Pool().tensors)
        ahead = Foreseen((bright,), torch.ones(1, len(KNOTS), 3)) if own_chain == "foreseen" else None
        objective = own_chain_objective(data, head, log_h, walkers, foreseen=ahead)
    else:
        logs = torch.linspace(-1, 0, len(data.latents), dtype=torch.float64)
        objective = guided_objective(data, head, lambda: logs, log_h, STEP)
    loss = objective(0, torch.Generator().manual_seed(0))
    loss.backward()
    assert loss.device == DEVICE
    assert np.isfinite(float(loss.detach()))
    assert any(float(parameter.grad.abs().max()) > 0 for parameter in parameters if parameter.grad is not None)


@pytest.mark.parametrize("name", ["esd", "neggrad", "siss", "erasediff"])
def test_baselines(there, estimate, solution, name):
    denoiser = denoiser_there("sd")
    assert np.isfinite(method_of(name).fit(FitContext(denoiser, estimate, solution, STEP)).losses).all()


@pytest.mark.parametrize("kind", [TiltedImages, ForgetImages])
def test_images(there, kind):
    denoiser = denoiser_there("sd")
    data = torch.randn(12, *denoiser.sample_shape, generator=torch.Generator().manual_seed(0))
    method = replace(kind(), inner=1, extra=0, repeats=2, noise_levels=2)
    outcome = method.fit(ImageFitContext(denoiser, Images(data[:2], 0.05, data), 2.0, STEP))
    assert np.isfinite(outcome.losses).all()


@pytest.mark.parametrize("family", list(families.FAMILIES))
def test_samples_features_and_images(there, family):
    denoiser = denoiser_there(family)
    some = asked(denoiser, "one", "seven")
    latents = sample_latents(denoiser.pipeline, some, seed=0, steps=2)
    t = torch.tensor([10, 700])
    feature = noised_features(denoiser, latents, t, denoiser.condition([""]), torch.Generator().manual_seed(0))
    images = torch.from_numpy(decode(denoiser.pipeline, latents))
    for made in (latents, feature, images, encode(denoiser.pipeline, images)):  # what is kept is kept on the CPU
        assert not isinstance(made, There)
        assert torch.isfinite(made).all()


@pytest.mark.parametrize("family", ["sd", "ddpm"])
def test_guidance(there, family):
    denoiser = denoiser_there(family)
    some = asked(denoiser, "one", "seven")
    latents = sample_latents(denoiser.pipeline, some, seed=0, steps=2)
    width = noised_features(
        denoiser, latents[:1], torch.tensor([3]), denoiser.condition([""]), torch.Generator().manual_seed(0)
    ).shape[1]
    classifier = RatioClassifier(width, [0.5, 0.5], [0.1], members=1).to(DEVICE).eval()
    prompts = PROMPTS if denoiser.prompt_inputs else None
    with Guided(denoiser, prompts, classifier, constant(1.0)):
        guided = sample_latents(denoiser.pipeline, some, seed=0, steps=2)
    assert torch.isfinite(guided).all()
    assert not torch.allclose(guided, latents)


def test_ratios_and_costs(there):
    denoiser = denoiser_there("sd")
    latents = torch.randn(4, *denoiser.sample_shape, generator=torch.Generator().manual_seed(0))
    t, empty = torch.full((4,), 5), denoiser.condition([""])
    feature = noised_features(denoiser, latents, t, empty, torch.Generator().manual_seed(1))
    classifier = train_classifier(
        feature, torch.zeros(4), torch.arange(4) % 2, [0.1], steps=1, seed=0, device=denoiser.network.device
    )
    assert classifier.center.device == DEVICE
    values = classifier_ratios(denoiser, classifier, latents, seed=0)
    differences = elbo_differences(denoiser, latents, PROMPTS, levels=2, seed=0)
    paths = path_ratios(denoiser, PROMPTS, 2, steps=2, seed=0)
    surprise = negative_elbo(denoiser, latents, denoiser.condition([""] * 4), levels=2, seed=0)
    cost = path_cost(denoiser, [""] * 2, chain_of(denoiser, 2, 3), seed=0)
    apart = divergence(denoiser, latents, denoiser.condition([""] * 4), levels=1, seed=0)
    for value in (values, differences, paths.values, paths.latents, surprise, cost, apart):
        assert not isinstance(value, There)
        assert torch.isfinite(value).all()
    assert surprise.dtype == cost.dtype == torch.float64  # summed up in double precision all the same


def test_the_same_numbers_as_here():
    """The pretended device computes what the CPU does: what is found there is a matter of devices alone."""
    here = denoiser_of(families.build(families.sd))
    x, t = torch.randn(2, *here.sample_shape, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 900])
    with torch.no_grad():
        want = here.predict(x, t, here.condition(["one", ""]))
        with Elsewhere():
            some = denoiser_there("sd")
            got = some.predict(x.to(DEVICE), t.to(DEVICE), some.condition(["one", ""])).cpu()
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * float(want.abs().max()))
