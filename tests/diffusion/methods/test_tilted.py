import numpy as np
import pytest
import torch

from diffusion.methods.tilted_loss import Material, Tilt, blended, tilted_loss
from diffusion.pipelines import StableDiffusion
from diffusion.pipelines.sampling import sample_latents
from diffusion.ratios.classifier import RatioClassifier
from diffusion.tasks.config import FitConfig
from diffusion.training.lora import ADAPTER, add_lora, add_student, base_model, merged_adapters, save_lora
from tests.diffusion.conftest import make_pipeline
from tests.diffusion.methods.conftest import fit_tilted

SMALL = FitConfig(max_train_steps=4, train_batch_size=6, rank=2, learning_rate=1e-2, seed=3)


@pytest.fixture
def denoiser():
    """The size of the embedded pipeline, which is what the classifier below reads."""
    return StableDiffusion(make_pipeline())


@pytest.fixture(scope="module")
def classifier():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RatioClassifier(96 * 16 + 256, [0.5, 0.5], [0.1]).eval()


@pytest.fixture(scope="module")
def material():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(12, 4, 8, 8, generator=generator)
    return Material(latents, torch.rand(12, generator=generator), latents.flip(0), ("one", "three") * 6)


def fit(denoiser, prompts, classifier, material, settings=SMALL, **more):
    tilt = Tilt(lambda rho: -0.5 * rho[:, 0].exp() * 0.1)
    return fit_tilted(denoiser, prompts, classifier, tilt, material, settings, **more)


def adapters(denoiser):
    return {name: p.detach().clone() for name, p in denoiser.network.named_parameters() if ADAPTER in name}


def test_gradient_of_the_loss_is_its_formula():
    """d/df = [2 w (f - T) - 2 (w - wbar) (y - T)] / size, against central differences."""
    generator = torch.Generator().manual_seed(1)
    f, t, y = (torch.randn(3, 2, generator=generator, dtype=torch.float64) for _ in range(3))
    w, wbar = (torch.rand(3, generator=generator, dtype=torch.float64) for _ in range(2))
    f.requires_grad_()
    tilted_loss(f, t, y, w, wbar).backward()
    formula = (2 * w[:, None] * (f - t) - 2 * (w - wbar)[:, None] * (y - t)) / f.numel()
    np.testing.assert_allclose(f.grad, formula.detach(), rtol=1e-12)
    numeric, h = torch.zeros_like(f), 1e-6
    for index in np.ndindex(*f.shape):
        step = torch.zeros_like(f)
        step[index] = h
        up, down = (tilted_loss(f.detach() + s * step, t, y, w, wbar) for s in (1, -1))
        numeric[index] = (up - down) / (2 * h)
    np.testing.assert_allclose(f.grad, numeric, atol=1e-8)


@pytest.mark.parametrize("right", ["base model", "weight"])
def test_optimum_of_the_loss(right):
    """At one x_t with finitely many x_0: E[w y]/E[w] for an exact base model, plus its own error for another."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(5))
    y, w = rng.normal(size=5), rng.uniform(0.1, 1, size=5)
    exact_teacher, exact_weight = p @ y, p @ w
    t = exact_teacher if right == "base model" else exact_teacher + 0.7
    wbar = exact_weight if right == "weight" else exact_weight - 0.2
    # minimise sum_j p_j [ w (f - T)^2 - 2 (w - wbar) (f - T) (y - T) ] in f: a parabola
    optimum = t + p @ ((w - wbar) * (y - t)) / (p @ w)
    assert optimum == pytest.approx(p @ (w * y) / (p @ w) + (t - exact_teacher), abs=1e-12)
    f = torch.tensor([optimum], dtype=torch.float64, requires_grad=True)
    total = sum(
        p[j]
        * tilted_loss(f[None], torch.tensor([[t]]), torch.tensor([[y[j]]]), torch.tensor([w[j]]), torch.tensor([wbar]))
        for j in range(5)
    )
    total.backward()
    assert abs(float(f.grad)) < 1e-12


def test_guided_share_of_the_loss_has_its_gradient_and_its_optimum():
    """beta = 0 is tilted denoising; beta = 1 has the guided output T + G as its optimum; linear in between."""
    generator = torch.Generator().manual_seed(2)
    f, t, y, g = (torch.randn(3, 2, generator=generator, dtype=torch.float64) for _ in range(4))
    w, wbar = (torch.rand(3, generator=generator, dtype=torch.float64) for _ in range(2))

    def gradient(at, beta):
        at = at.clone().requires_grad_()
        blended(tilted_loss(at, t, y, w, wbar), at, t + g, beta).backward()
        return at.grad

    tilted = f.clone().requires_grad_()
    tilted_loss(tilted, t, y, w, wbar).backward()
    np.testing.assert_allclose(gradient(f, 0.0), tilted.grad, rtol=1e-12)
    np.testing.assert_allclose(gradient(t + g, 1.0), 0, atol=1e-12)
    formula = 2 * (f - t - g) / f.numel()
    np.testing.assert_allclose(gradient(f, 1.0), formula, rtol=1e-10)
    np.testing.assert_allclose(gradient(f, 0.3), 0.7 * tilted.grad + 0.3 * formula, rtol=1e-10)


def test_importance_and_noise_power_leave_the_mean_as_it_is():
    """Rows chosen by shares at weight 1/(n share) average what equal rows average, within four standard errors."""
    rng = np.random.default_rng(0)
    value, unusual = rng.normal(size=50), rng.uniform(size=50) ** 4
    shares = 0.5 / 50 + 0.5 * unusual / unusual.sum()
    chosen = torch.multinomial(torch.tensor(shares), 40_000, True, generator=torch.Generator().manual_seed(0)).numpy()
    seen = value[chosen] / (50 * shares[chosen])
    assert abs(seen.mean() - value.mean()) < 4 * seen.std() / 200
    assert (1 / (50 * shares)).max() <= 2


def test_no_noise_where_weight_and_neighbourhood_agree():
    t, y = torch.zeros(4, 2), torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    f = torch.zeros(4, 2, requires_grad=True)
    tilted_loss(f, t, y, torch.ones(4), torch.ones(4)).backward()
    assert torch.equal(f.grad, torch.zeros(4, 2))


def test_student_starts_as_the_teacher_and_the_teacher_stays(denoiser, prompts, classifier, material):
    x, t, c = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5)), torch.tensor([5, 800]), ["", "one"]
    condition = denoiser.condition(c)
    with torch.no_grad():
        before = denoiser.predict(x, t, condition)
        add_lora(denoiser, 2, 0)
        np.testing.assert_allclose(denoiser.predict(x, t, condition), before, atol=1e-6)
    fit(denoiser, prompts, classifier, material)
    with torch.no_grad():
        assert not torch.allclose(denoiser.predict(x, t, condition), before, atol=1e-4)
    with base_model(denoiser):
        np.testing.assert_allclose(denoiser.predict(x, t, condition), before, atol=1e-6)


def test_resumed_fit_ends_bit_equal(denoiser, prompts, classifier, material, tmp_path):
    whole = FitConfig(max_train_steps=9, train_batch_size=3, rank=1, seed=1)
    losses = fit(denoiser, prompts, classifier, material, whole)
    expected = adapters(denoiser)

    class Stop(Exception):
        pass

    seen, path = [], tmp_path / "fit.safetensors"

    def interrupt(count):
        seen.append(count)
        if len(seen) == 7:
            raise Stop

    with pytest.raises(Stop):
        fit(denoiser, prompts, classifier, material, whole, checkpoint=path, every=3, progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["fit.safetensors"]
    again = fit(denoiser, prompts, classifier, material, whole, checkpoint=path)
    assert again == losses
    assert all(torch.equal(value, expected[name]) for name, value in adapters(denoiser).items())


def test_a_loss_that_is_not_finite_stops_the_fit(denoiser, prompts, classifier, material):
    broken = Material(material.anchor_latents * float("nan"), *list(vars(material).values())[1:])
    with pytest.raises(FloatingPointError, match="unet returned NaN or inf"):
        fit(denoiser, prompts, classifier, broken)


def test_stock_diffusers_loads_the_lora_with_its_alpha(denoiser, prompts, classifier, material, tmp_path):

    fit(denoiser, prompts, classifier, material)
    save_lora(denoiser, tmp_path)
    fitted = sample_latents(denoiser.pipeline, ["", "seven", "one"], seed=1, steps=3)
    fresh = make_pipeline()
    plain = sample_latents(fresh, ["", "seven", "one"], seed=1, steps=3)
    fresh.load_lora_weights(tmp_path)
    loaded = next(iter(fresh.unet.peft_config.values()))
    assert (loaded.r, loaded.lora_alpha) == (SMALL.rank, SMALL.rank)
    np.testing.assert_allclose(sample_latents(fresh, ["", "seven", "one"], seed=1, steps=3), fitted, atol=1e-5)
    assert not torch.allclose(plain, fitted, atol=1e-3)


@pytest.mark.parametrize("rank", [2, None], ids=["LoRA", "all weights"])
def test_a_folded_student_predicts_the_same_and_leaves_every_weight_as_it_was(denoiser, rank):
    generator = torch.Generator().manual_seed(1)
    for parameter in add_student(denoiser, rank, 0):
        with torch.no_grad():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    x, t = torch.randn(3, 4, 8, 8, generator=generator), torch.full((3,), 500)
    condition = denoiser.condition(["", "a handwritten seven", ""])
    before = {name: value.detach().clone() for name, value in denoiser.network.named_parameters()}
    trained = {name for name, value in denoiser.network.named_parameters() if value.requires_grad}
    with torch.no_grad():
        student = denoiser.predict(x, t, condition)
        with base_model(denoiser):
            plain = denoiser.predict(x, t, condition)
        with pytest.raises(RuntimeError, match="stop"), merged_adapters(denoiser):
            inside = denoiser.predict(x, t, condition)
            raise RuntimeError("stop")
        assert torch.equal(denoiser.predict(x, t, condition), student)
    torch.testing.assert_close(inside, student, rtol=1e-4, atol=1e-5)
    assert (plain - student).abs().max() > 1e-2
    assert all(torch.equal(value, before[name]) for name, value in denoiser.network.named_parameters())
    assert {name for name, value in denoiser.network.named_parameters() if value.requires_grad} == trained
