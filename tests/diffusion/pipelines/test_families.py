"""Every supported family end to end on a tiny pipeline: samples, features, guidance, a LoRA that stock libraries
load."""

import numpy as np
import pytest
import torch

from diffusion.guidance.guided import Guided, constant
from diffusion.pipelines import Denoiser, denoiser_of, repeat
from diffusion.pipelines.latents import decode, encode, image_shape
from diffusion.pipelines.sampling import sample_latents
from diffusion.ratios.classifier import Bottleneck, RatioClassifier, features, log_snr, pooled
from diffusion.tasks.concepts import ConceptLaw, TaskPrompts
from diffusion.tasks.config import FitConfig
from diffusion.training.lora import base_model, save_lora
from tests.diffusion import families
from tests.diffusion.families import FAMILIES, build
from tests.diffusion.methods.conftest import Material, fit_tilted

PROMPTS = TaskPrompts((ConceptLaw(("seven", "a handwritten seven"), 0.1),), (("one",), ("three",)))


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def reader(family):
    """For tests that leave the pipeline as it is."""
    return denoiser_of(build(FAMILIES[family]))


@pytest.fixture(scope="module", params=[name for name in FAMILIES if name != "ddpm"])
def prompted(request):
    """The families with prompts and a VAE."""
    return denoiser_of(build(FAMILIES[request.param]))


def asked(denoiser, *prompts):
    return list(prompts) if denoiser.prompt_inputs else [""] * len(prompts)


def states(denoiser, count, seed=0):
    return torch.randn(count, *denoiser.sample_shape, generator=torch.Generator().manual_seed(seed))


def classifier_for(denoiser):
    x, t = states(denoiser, 1), torch.tensor([500])
    width = features(denoiser, x, t, denoiser.condition([""])).shape[1]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RatioClassifier(width, [0.5, 0.5], [0.1]).eval()


def test_the_protocol_is_kept(reader):
    assert isinstance(reader, Denoiser)
    assert reader.network is reader.pipeline.components[reader.component]


def test_samples_are_reproducible_in_any_batch(reader):
    prompts = asked(reader, "seven", "", "one")
    whole, parts = (sample_latents(reader.pipeline, prompts, seed=1, steps=3, batch=b) for b in (3, 2))
    assert whole.shape == (3, *reader.sample_shape)
    np.testing.assert_allclose(whole, parts, atol=1e-4 * float(whole.abs().max()))
    other = sample_latents(reader.pipeline, prompts, seed=2, steps=3)
    assert not torch.allclose(whole, other, atol=0.1)


def test_pictures_there_and_back(reader):
    latents = sample_latents(reader.pipeline, asked(reader, "one", ""), seed=1, steps=2)
    images = decode(reader.pipeline, latents)
    assert images.shape == (2, *image_shape(reader.pipeline)) == (2, 3, 16, 16)
    assert np.abs(images).max() <= 1
    assert encode(reader.pipeline, torch.from_numpy(images)).shape == latents.shape


def test_decoded_as_the_pipeline_does(prompted):
    chance = torch.Generator().manual_seed(5)
    more = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "np"}
    stock = prompted.pipeline(["one"], latents=states(prompted, 1), generator=chance, **more).images
    latents = prompted.pipeline(
        ["one"], latents=states(prompted, 1), generator=chance, **{**more, "output_type": "latent"}
    ).images
    np.testing.assert_allclose(decode(prompted.pipeline, latents), 2 * stock.transpose(0, 3, 1, 2) - 1, atol=1e-5)


def test_encoding_is_the_inverse_affine_map(prompted):
    """decode(encode) and encode(decode) meet in the VAE's own units, whatever its scale, shift, mean and std."""
    from diffusion.pipelines.latents import _affine

    vae = prompted.pipeline.vae
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    scale, shift = _affine(vae, images)
    with torch.no_grad():
        inner = vae.encode(images).latent_dist.mode()
    np.testing.assert_allclose(encode(prompted.pipeline, images) / scale + shift, inner, atol=1e-5)


def test_features_are_the_bottleneck_s(reader):
    x, t = states(reader, 2), torch.tensor([10, 900])
    condition = reader.condition(asked(reader, "", "seven"))
    with Bottleneck(reader) as caught, torch.no_grad():
        output = reader.predict(x, t, condition)
    assert caught.last.ndim == 4
    # The tiny UNets halve their states once, the transformer has patches of two.
    assert caught.last.shape[2:] == tuple(side // 2 for side in reader.sample_shape[1:])
    made = features(reader, x, t, condition)
    if reader.component == "unet" and reader.prompt_inputs:
        assert torch.equal(made, torch.cat([caught.last.flatten(1), output.flatten(1)], 1))
    assert torch.equal(made, pooled(caught.last, output))
    assert torch.isfinite(made).all()
    assert not reader.bottleneck._forward_hooks


def test_tokens_keep_their_places():
    """A transformer's token i lies at row i // w, column i % w."""
    denoiser = denoiser_of(build(families.sd3))
    tokens = torch.arange(16.0).view(1, 16, 1).expand(1, 16, 5)
    placed = denoiser.activations((None, tokens))
    assert placed.shape == (1, 5, 4, 4)
    assert torch.equal(placed[0, 0], torch.arange(16.0).view(4, 4))
    denoiser.sample_shape = (4, 8, 32)
    assert denoiser.activations((None, tokens)).shape == (1, 5, 2, 8)
    with pytest.raises(ValueError, match="15 tokens"):
        denoiser.activations((None, tokens[:, :15]))


def test_guided_output_is_the_formula(reader):
    classifier, x, level = classifier_for(reader), states(reader, 3), torch.full((3,), 600)
    base = reader.condition(asked(reader, "one", "", "three"))
    with torch.no_grad():
        q = reader.predict(x, level, base)
    if reader.prompt_inputs:
        with torch.no_grad():
            free, concept = (reader.predict(x, level, repeat(reader.condition([p]), 3)) for p in ("", "seven"))
        expected = q + 0.7 * (free - concept)
    else:

        def rho(state):
            with Bottleneck(reader) as caught:
                output = reader.predict(state, level, base)
            return classifier(pooled(caught.last, output), log_snr(reader, level))[:, 0]

        state = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(rho(state).sum(), state)
        # The gradient itself, by central differences along one direction, in double precision.
        reader.network.double()
        classifier.double()
        along = gradient.double() / gradient.double().flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        with torch.no_grad():
            slope = (rho(x.double() + 1e-4 * along) - rho(x.double() - 1e-4 * along)) / 2e-4
        reader.network.float()
        classifier.float()
        np.testing.assert_allclose(slope, (gradient * along).flatten(1).sum(1), rtol=1e-3)
        expected = q + 0.7 * reader.schedule(level)[1] * gradient  # epsilon-prediction
    with Guided(reader, PROMPTS, classifier, constant(0.7)), torch.no_grad():
        guided = reader.predict(x, level, base)
    assert not torch.allclose(guided, q, atol=1e-5)
    np.testing.assert_allclose(guided, expected, atol=1e-4)
    assert not reader.network._forward_hooks
    assert not reader.network._forward_pre_hooks


def test_guided_samples(reader):
    """No strength changes nothing; a concept's paraphrase samples the anchor; a strength changes what is drawn."""
    classifier, pipeline = classifier_for(reader), reader.pipeline
    plain = sample_latents(pipeline, asked(reader, "", "one"), seed=1, steps=3)
    prompts = PROMPTS if reader.prompt_inputs else None
    with Guided(reader, prompts, classifier, constant(0.0)) as guided:
        same = sample_latents(pipeline, asked(reader, "", "one"), seed=1, steps=3)
        paraphrase = sample_latents(pipeline, asked(reader, "a handwritten  SEVEN"), seed=1, steps=3)
    scale = float(plain.abs().max())
    np.testing.assert_allclose(same, plain, atol=1e-5 * scale)
    np.testing.assert_allclose(paraphrase, plain[:1], atol=1e-4 * scale)
    assert [share for _, _, share in guided.trace.steps] == [0.0] * 6
    with Guided(reader, prompts, classifier, constant(3.0)):
        changed = sample_latents(pipeline, asked(reader, "", "one"), seed=1, steps=3)
    assert torch.isfinite(changed).all()
    assert not torch.allclose(changed, plain, atol=1e-4 * scale)


def test_together_with_classifier_free_guidance(prompted):
    """The correction is the same on both halves of a pair, so it passes through whatever the guidance scale."""
    classifier, seen = classifier_for(prompted), []

    def keep(_module, _args, output):
        seen.append(output[0])

    def once():
        seen.clear()
        handle = prompted.network.register_forward_hook(keep)
        try:
            sample_latents(prompted.pipeline, ["one"], seed=1, steps=1, guidance_scale=4.0)
        finally:
            handle.remove()
        return seen[-1]  # Guided's own calls come before the sampler's has its answer

    plain = once()
    with Guided(prompted, PROMPTS, classifier, constant(0.5)):
        guided = once()  # `keep` is registered after Guided's hook: it sees the corrected output
    moved = guided - plain
    assert len(moved) == 2
    np.testing.assert_allclose(moved[0], moved[1], atol=1e-5)
    assert moved.abs().max() > 1e-4


def test_lora_is_fitted_saved_and_loaded_by_stock_libraries(family, tmp_path):
    denoiser = denoiser_of(build(FAMILIES[family]))
    prompts = asked(denoiser, "", "seven", "one")
    x, t, condition = states(denoiser, 3), torch.tensor([5, 300, 900]), denoiser.condition(prompts)
    with torch.no_grad():
        before = denoiser.predict(x, t, condition)
    weights = torch.rand(6, generator=torch.Generator().manual_seed(1))
    one = tuple(asked(denoiser, *["one"] * 4))
    material = Material(
        states(denoiser, 6, 2), weights, states(denoiser, 4, 3), one, lambda rho: -0.05 * rho[:, 0].exp()
    )
    losses = fit_tilted(
        denoiser,
        PROMPTS,
        classifier_for(denoiser),
        material,
        FitConfig(max_train_steps=3, train_batch_size=6, rank=2, learning_rate=2e-2, seed=3),
    )
    assert len(losses) == 3
    fitted = sample_latents(denoiser.pipeline, prompts, seed=1, steps=3)
    with base_model(denoiser):
        np.testing.assert_allclose(denoiser.predict(x, t, condition), before, atol=1e-5)
    save_lora(denoiser, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.suffix not in (".safetensors", ".json", ".md")]

    fresh = build(FAMILIES[family])
    plain = sample_latents(fresh, prompts, seed=1, steps=3)
    if denoiser.prompt_inputs:
        fresh.load_lora_weights(tmp_path)
    else:
        from peft import PeftModel

        PeftModel.from_pretrained(fresh.unet, tmp_path)  # puts the adapters into the unet itself
    (loaded,) = denoiser_of(fresh).network.peft_config.values()
    assert (loaded.r, loaded.lora_alpha) == (2, 2)
    scale = float(fitted.abs().max())
    np.testing.assert_allclose(sample_latents(fresh, prompts, seed=1, steps=3), fitted, atol=1e-5 * scale)
    assert not torch.allclose(plain, fitted, atol=1e-3 * scale)


def test_every_target_exists_and_reaches_all_kinds_of_layers(family):
    """Each name in ``lora_targets`` ends the name of some layer of the family's network, small as it is."""
    denoiser = denoiser_of(build(FAMILIES[family]))
    names = [name for name, _ in denoiser.network.named_modules()]
    found = {target: any(name.endswith(f".{target}") for name in names) for target in denoiser.lora_targets}
    if family == "ddpm":  # no cross-attention, so no transformer blocks
        found = {target: here for target, here in found.items() if not target.startswith("ff")}
    assert all(found.values()), found
