"""A fit in a folder, put into a fresh pipeline: it makes what the fitted one drew."""

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffusion.pipelines import denoiser_of
from diffusion.pipelines.fingerprint import fingerprint
from diffusion.pipelines.fitted import holds_fit, put_in
from diffusion.pipelines.sampling import sample_latents
from diffusion.training.lora import ADAPTER, add_student, save_student
from tests.diffusion import families
from tests.diffusion.families import build


@pytest.mark.parametrize("rank", [2, None], ids=["LoRA", "all weights"])
@pytest.mark.parametrize("family", ["sd", "sd3", "ddpm"])
def test_a_saved_fit_samples_what_it_drew(family, rank, tmp_path):
    make = families.FAMILIES[family] if family != "ddpm" else lambda: families.ddpm(DDPMPipeline)
    denoiser = denoiser_of(build(make))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in add_student(denoiser, rank, 0):
            parameter.add_((0.1 if rank else 0.02) * torch.randn(parameter.shape, generator=generator))
    save_student(denoiser, tmp_path / "fit")
    assert holds_fit(tmp_path / "fit")
    expected = sample_latents(denoiser.pipeline, [""] * 2, seed=1, steps=2)
    plain = denoiser_of(build(make))
    before = sample_latents(plain.pipeline, [""] * 2, seed=1, steps=2)
    put_in(plain, tmp_path / "fit")
    found = sample_latents(plain.pipeline, [""] * 2, seed=1, steps=2)
    assert not any(ADAPTER in name for name, _ in plain.network.named_parameters())
    np.testing.assert_allclose(found, expected, atol=2e-4 * float(expected.abs().max()))
    assert float((expected - before).abs().max()) > 1e-2 * float(expected.abs().max())


@pytest.mark.parametrize("family", ["sd", "ddpm"])
def test_one_fit_is_described_alike_by_every_process(family, tmp_path):
    """Names of layers stand in a set, whose order no two processes share. (The order of a file's header is its own.)"""
    denoiser = denoiser_of(build(families.FAMILIES[family] if family != "ddpm" else families.ddpm))
    add_student(denoiser, 2, 0)
    targets = ["to_q", "to_v", "to_k", "to_out.0"]
    said = []
    for number, order in enumerate((targets, targets[::-1])):
        denoiser.network.peft_config[ADAPTER].target_modules = set_in(order)
        folder = tmp_path / str(number)
        save_student(denoiser, folder)
        if family == "ddpm":
            said.append((folder / "adapter_config.json").read_text(encoding="utf-8"))
        else:
            with safe_open(folder / "pytorch_lora_weights.safetensors", "pt") as file:
                said.append(file.metadata()["lora_adapter_metadata"])
    assert said[0] == said[1]
    assert said[0].index('"to_k"') < said[0].index('"to_q"') < said[0].index('"to_v"')


def set_in(order):
    """A set that is gone through in this order."""

    class Ordered(set):
        def __iter__(self):
            return iter(order)

    return Ordered(order)


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


@pytest.fixture
def saved(tmp_path):
    """A LoRA in a folder, by family."""

    def make(family):
        denoiser = denoiser_of(build(families.FAMILIES[family] if family != "ddpm" else families.ddpm))
        with torch.no_grad():
            for parameter in add_student(denoiser, 2, 0):
                parameter.add_(0.1)
        save_student(denoiser, tmp_path)
        return next(tmp_path.glob("*.safetensors"))

    return make


def renamed(path, change):
    tensors = {change(name): value for name, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("family", "change", "words"),
    [
        ("sd", lambda name: name.replace("unet.", "another."), "0 of the LoRA's"),
        ("sd", lambda name: name.replace("unet.", "unet._orig_mod."), "0 of the LoRA's"),
        ("sd", lambda name: name.replace("attn1", "attn9"), "of the LoRA's .* tensors are of layers|not found"),
        ("ddpm", lambda name: name.replace("base_model.model.", "base_model.model.another."), "0 of the LoRA's"),
        ("ddpm", lambda name: name.replace("to_q", "to_z"), "of the LoRA's .* tensors are of layers"),
    ],
)
def test_a_lora_of_another_network_is_refused(saved, family, change, words):
    """All of its keys, or some of them, fit nothing: the model would be sampled and audited as if it were unlearned."""
    path = saved(family)
    renamed(path, change)
    plain = denoiser_of(build(families.FAMILIES[family] if family != "ddpm" else families.ddpm))
    before = fingerprint(plain.pipeline)
    with pytest.raises(ValueError, match=rf"does not fit the model: .*({words})"):
        put_in(plain, path.parent)
    assert fingerprint(plain.pipeline) == before


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100])
@pytest.mark.parametrize("name", ["pytorch_lora_weights.safetensors", "adapter_model.safetensors"])
def test_a_malformed_lora_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="does not fit the model") as refused:
        put_in(denoiser_of(build(families.sd)), tmp_path)
    assert "\n" not in str(refused.value)
