"""A fit in a folder, put into a fresh pipeline: it draws what the fitted one drew."""

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline

from diffusion.pipelines import denoiser_of
from diffusion.pipelines.loading import holds_fit, put_in
from diffusion.pipelines.sampling import draw
from diffusion.training.lora import ADAPTER, add_student, save_student
from tests.diffusion import families
from tests.diffusion.families import build


@pytest.mark.parametrize("rank", [2, None], ids=["LoRA", "all weights"])
@pytest.mark.parametrize("family", ["sd", "sd3", "ddpm"])
def test_a_saved_fit_draws_what_it_drew(family, rank, tmp_path):
    make = families.FAMILIES[family] if family != "ddpm" else lambda: families.ddpm(DDPMPipeline)
    denoiser = denoiser_of(build(make))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in add_student(denoiser, rank, 0):
            parameter.add_((0.1 if rank else 0.02) * torch.randn(parameter.shape, generator=generator))
    save_student(denoiser, tmp_path / "fit")
    assert holds_fit(tmp_path / "fit")
    expected = draw(denoiser.pipeline, [""] * 2, seed=1, steps=2)
    plain = denoiser_of(build(make))
    before = draw(plain.pipeline, [""] * 2, seed=1, steps=2)
    put_in(plain, tmp_path / "fit")
    found = draw(plain.pipeline, [""] * 2, seed=1, steps=2)
    assert not any(ADAPTER in name for name, _ in plain.network.named_parameters())
    np.testing.assert_allclose(found, expected, atol=2e-4 * float(expected.abs().max()))
    assert float((expected - before).abs().max()) > 1e-2 * float(expected.abs().max())


def test_other_folders_are_refused(tmp_path):
    plain = denoiser_of(build(families.sd))
    assert not holds_fit(tmp_path)
    with pytest.raises(ValueError, match="does not fit the model: it has no pytorch_lora_weights"):
        put_in(plain, tmp_path)
    other = denoiser_of(build(families.sdxl))
    add_student(other, None, 0)
    save_student(other, tmp_path)
    with pytest.raises(ValueError, match="does not fit the model"):
        put_in(plain, tmp_path)
