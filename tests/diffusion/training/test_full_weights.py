"""All weights in the place of an adapter: trained, resumed, saved, and some of them left out."""

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel

import duality as du
from diffusion.methods import ESD, IMAGE_METHODS
from diffusion.methods.base import FitContext, ImageFitContext
from diffusion.pipelines.sampling import sample_latents
from diffusion.tasks.config import FitConfig
from diffusion.tasks.image_set import Images
from diffusion.training.full_weights import is_free, put_back
from diffusion.training.lora import add_lora, add_student, base_model, save_student, switch_lora
from tests.diffusion.families import FAMILIES, build
from tests.diffusion.jobs import unlearn
from tests.diffusion.methods.conftest import made, make_denoiser
from tests.diffusion.methods.conftest import same as alike
from tests.diffusion.training.test_trainer import ALTERNATE, SMALL, trained


@pytest.mark.parametrize("method", [made("tilted"), made("guidance"), ALTERNATE], ids=["a", "b", "c"])
def test_all_weights_with_a_frozen_teacher(method, estimate, solution, tmp_path):
    denoiser = make_denoiser()
    before = {n: p.detach().clone() for n, p in denoiser.network.named_parameters()}
    x, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 800])
    condition = denoiser.condition(["", "seven"])
    with torch.no_grad():
        said = denoiser.predict(x, t, condition)
    method.fit(FitContext(denoiser, estimate, solution, SMALL.but(full_weights=True, learning_rate=1e-3)))
    assert not alike(before, trained(denoiser))
    with base_model(denoiser):
        assert torch.equal(denoiser.predict(x, t, condition), said)
        assert alike(before, trained(denoiser))
    switch_lora(denoiser, False)
    switch_lora(denoiser, False)  # twice is once
    with torch.no_grad():
        assert torch.equal(denoiser.predict(x, t, condition), said)
    switch_lora(denoiser, True)
    save_student(denoiser, tmp_path)
    loaded = UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet", use_safetensors=True)
    with torch.no_grad():
        fresh = build(FAMILIES["sd"])
        fresh.register_modules(unet=loaded)
        fitted = sample_latents(denoiser.pipeline, ["", "seven"], seed=1, steps=2)
        np.testing.assert_allclose(sample_latents(fresh, ["", "seven"], seed=1, steps=2), fitted, atol=1e-5)
    again = add_student(denoiser, 2, 0)  # a fresh start of another kind: from the base model
    assert not is_free(denoiser.network)
    assert len(again) < len(before)
    with torch.no_grad():
        np.testing.assert_allclose(denoiser.predict(x, t, condition), said, atol=1e-6)


@pytest.mark.slow
def test_all_weights_of_a_ddpm_are_resumed_and_saved(tmp_path):
    def fit(**more):
        denoiser = make_denoiser("ddpm")
        data = torch.rand(20, *denoiser.sample_shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
        settings = FitConfig(max_train_steps=4, train_batch_size=6, full_weights=True, learning_rate=1e-3, seed=2)
        brief = dataclasses.replace(IMAGE_METHODS["primal-dual"](), noise_levels=2, repeats=2, extra=2)
        brief.fit(ImageFitContext(denoiser, Images(data[:2], 0.1, data), 1.0, settings, **more))
        return denoiser

    class Stop(Exception):
        pass

    steps = []

    def stop(count):
        steps.append(count)
        if len(steps) == 3:
            raise Stop

    expected = fit()
    with pytest.raises(Stop):
        fit(checkpoint=tmp_path / "fit.safetensors", every=2, progress=stop)
    resumed = fit(checkpoint=tmp_path / "fit.safetensors", every=2)
    assert alike(trained(expected), trained(resumed))
    save_student(resumed, tmp_path)
    loaded = UNet2DModel.from_pretrained(tmp_path, subfolder="unet", use_safetensors=True)
    stored = dict(loaded.named_parameters())
    assert all(torch.equal(stored[name], value) for name, value in trained(resumed).items())


def test_some_of_the_weights(denoiser, estimate, solution):
    """ESD-x as its authors trained it: the cross-attention layers' own weights."""
    before = {n: p.detach().clone() for n, p in denoiser.network.named_parameters()}
    ESD(layers=("attn2.to_k", "attn2.to_v")).fit(FitContext(denoiser, estimate, solution, SMALL.but(full_weights=True)))
    moved = {n for n, p in denoiser.network.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert all("attn2.to_k" in n or "attn2.to_v" in n for n in moved)
    put_back(denoiser)
    assert alike(before, {n: p.detach() for n, p in denoiser.network.named_parameters()})


def test_the_rate_has_a_default_for_each():
    some = (FitConfig(), FitConfig(full_weights=True), FitConfig(full_weights=True, learning_rate=0.5))
    assert [each.peak_rate for each in some] == [2e-3, 1e-4, 0.5]


def test_all_weights_need_a_network_without_adapters(denoiser):
    add_lora(denoiser, 1, 0)
    assert len(add_student(denoiser, None, 0)) == len(list(denoiser.network.parameters()))  # ours are taken off
    put_back(denoiser)
    from peft import LoraConfig

    denoiser.network.add_adapter(LoraConfig(r=1, target_modules=["to_q"]), "theirs")
    with pytest.raises(ValueError, match="unet carries adapters"):
        add_student(denoiser, None, 0)


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
def test_one_call_trains_all_weights_in_parts(tmp_path):
    from tests.diffusion.workflows.test_concepts import TASK, TINY, quiet

    pipeline = build(FAMILIES["sd"])
    fit = FitConfig(
        max_train_steps=2,
        train_batch_size=12,
        full_weights=True,
        gradient_accumulation_steps=2,
        mixed_precision="bf16",
        gradient_checkpointing=True,
    )
    result = unlearn(
        pipeline,
        [["seven", "a handwritten seven"]],
        du.ReverseKL(0.3),
        **TASK,
        **{**TINY, "fit": fit},
        output=tmp_path / "out",
        bar=quiet,
    )
    assert {"config.json", "diffusion_pytorch_model.safetensors"} == {
        path.name for path in (tmp_path / "out" / "unet").iterdir()
    }
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "# Network that was to unlearn 'seven' (not certified" in card
    assert "load_lora_weights" not in card
    loaded = UNet2DConditionModel.from_pretrained(tmp_path / "out", subfolder="unet", use_safetensors=True)
    stored = dict(loaded.named_parameters())
    assert all(torch.equal(stored[name], p) for name, p in pipeline.unet.named_parameters())
    told = result.certificate.fitted_model.fit
    assert (told["full_weights"], told["learning_rate"], told["processes"]) == (True, None, 1)
