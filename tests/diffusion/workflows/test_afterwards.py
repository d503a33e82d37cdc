"""What people do with a pipeline after a fit, by diffusers' own means: switch it off, fuse it, save it, stack on it."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file

import diffusion
from diffusion.pipelines import load_pipeline
from diffusion.pipelines.sampling import sample_latents
from diffusion.tasks.config import FitConfig
from tests.diffusion import families, jobs
from tests.diffusion.families import build
from tests.diffusion.jobs import unlearn
from tests.diffusion.methods.conftest import made
from tests.diffusion.workflows.test_concepts import quiet

pytestmark = pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
TASK = jobs.UNMEASURED | {"retained": ["one", ("three", "a handwritten three")], "priors": 0.1, "bar": quiet}
STRONG = {
    "fit": FitConfig(max_train_steps=10, train_batch_size=6, rank=2, learning_rate=5e-2),
    "method": made("tilted"),
}
LEVEL = ("ReverseKL", "1.02x")


def samples(pipeline):
    return sample_latents(pipeline, ["one", "seven"], seed=1, steps=3)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A folder with a result, samples before, samples after, and the pipeline with the LoRA on it."""
    folder = tmp_path_factory.mktemp("fitted") / "out"
    pipeline = build(families.sd)
    before = samples(pipeline)
    unlearn(pipeline, ["seven"], LEVEL, output=folder, **(TASK | STRONG))
    after = samples(pipeline)
    assert float((after - before).abs().max()) > 1e-2
    return folder, before, after, pipeline


def close(one, other):
    """Equal up to sums of another order in float32: a LoRA that is fused is added before it is multiplied."""
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_disabled_it_is_the_original_and_enabled_the_fitted_one(fitted):
    _, before, after, pipeline = fitted
    pipeline.disable_lora()
    close(samples(pipeline), before)
    pipeline.enable_lora()
    close(samples(pipeline), after)


def test_fused_and_saved_it_is_the_fitted_one_and_another_concept_goes_on_top(fitted, tmp_path):
    folder, before, after, _ = fitted
    pipeline = build(families.sd)
    pipeline.load_lora_weights(folder)
    close(samples(pipeline), after)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    pipeline.save_pretrained(tmp_path / "fused")
    again = load_pipeline(str(tmp_path / "fused"))
    close(samples(again), after)
    unlearn(again, ["a handwritten four"], LEVEL, **(TASK | STRONG))
    diffusion.undo(again)
    close(samples(again), after)  # what the second fit stands on is the first, not the model before it
    assert float((samples(again) - before).abs().max()) > 1e-2


def stock(pipeline):
    """Samples by the pipeline's own call, which asks for nothing of ours."""
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    call = {"num_inference_steps": 3, "guidance_scale": 1.0, "output_type": "latent"}
    with torch.no_grad():
        return pipeline(["one", "seven"], latents=latents, **call).images


@pytest.mark.slow
@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_compiled_afterwards_it_is_the_fitted_one(fitted, how):
    """A network is compiled after its fit: the saved names fit any pipeline, and every adapter has its values."""
    folder, _, _, source = fitted
    saved = load_file(Path(folder) / "pytorch_lora_weights.safetensors")
    assert not any("_orig_mod" in name for name in saved)
    pipeline = build(families.sd)
    plain = stock(pipeline)
    pipeline.load_lora_weights(folder)
    adapters = {name: value for name, value in pipeline.unet.named_parameters() if "lora_" in name}
    assert len(adapters) == len(saved)
    assert not any(value.is_meta for value in adapters.values())
    if how == "wrapped":
        pipeline.unet = torch.compile(pipeline.unet, backend="eager")
    else:
        pipeline.unet.compile(backend="eager")
    close(stock(pipeline), stock(source))
    assert float((stock(pipeline) - plain).abs().max()) > 1e-2


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")  # peft's word on two adapters, which are meant
def test_beside_a_style_of_somebody_else(fitted):
    folder, _, after, _ = fitted
    styled = build(families.sd)
    styled.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), "style")
    style = {f"unet.{k}": v for k, v in get_peft_model_state_dict(styled.unet, adapter_name="style").items()}
    pipeline = build(families.sd)
    pipeline.load_lora_weights(folder, adapter_name="gone")
    pipeline.load_lora_weights(style, adapter_name="style")
    pipeline.set_adapters(["gone", "style"], [1.0, 0.0])
    close(samples(pipeline), after)
    pipeline.set_adapters(["gone", "style"], [1.0, 0.7])
    both = samples(pipeline)
    assert bool(both.isfinite().all())
    assert float((both - after).abs().max()) > 1e-3
