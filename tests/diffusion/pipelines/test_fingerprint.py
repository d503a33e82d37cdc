"""Two pipelines whose samples differ have two names; one whose samples are the same keeps its own."""

import diffusers
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from peft import LoraConfig

from diffusion.pipelines import denoiser_of, load_pipeline
from diffusion.pipelines.fingerprint import fingerprint
from diffusion.pipelines.sampling import sample_latents
from diffusion.training.lora import add_student, undo
from tests.diffusion import families
from tests.diffusion.families import FAMILIES, build

# All accept the configuration of a Stable Diffusion pipeline as it is; for some nothing in it tells them apart.
SAMPLERS = (
    *("PNDM", "DDIM", "DDPM", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete", "LCM", "TCD"),
    *("KDPM2AncestralDiscrete", "LMSDiscrete", "UniPCMultistep", "DEISMultistep", "DPMSolverMultistep"),
)


@pytest.fixture
def pipeline():
    return build(families.sd)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # diffusers' own, in making some of them
def test_samplers_of_one_configuration_are_told_apart(pipeline):
    config, names = dict(pipeline.scheduler.config), {}
    for name in SAMPLERS:
        pipeline.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(config)
        names[name] = fingerprint(pipeline)
    assert len(set(names.values())) == len(SAMPLERS)
    # And along a chain, as notebooks go: nothing but the class differs.
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    one = fingerprint(pipeline)
    pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(pipeline.scheduler.config)
    assert fingerprint(pipeline) != one


def changed_sampler(pipeline):
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, set_alpha_to_one=False)


def changed_table(pipeline):
    pipeline.scheduler.alphas_cumprod[3] *= 0.5


def free_u(pipeline):
    pipeline.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)


def freeu_further(pipeline):
    free_u(pipeline)
    first = fingerprint(pipeline)
    pipeline.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.5)
    assert fingerprint(pipeline) != first


def token(pipeline):
    pipeline.tokenizer.add_tokens(["<style>"])


def clipped(pipeline):
    pipeline.tokenizer.model_max_length = 5


def style(pipeline):
    with torch.random.fork_rng():
        config = LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
        pipeline.unet.add_adapter(config, "style")


def weaker(pipeline):
    style(pipeline)
    first = fingerprint(pipeline)
    pipeline.set_adapters(["style"], adapter_weights=[0.2])
    assert fingerprint(pipeline) != first


def switched_off(pipeline):
    style(pipeline)
    first = fingerprint(pipeline)
    pipeline.disable_lora()
    assert fingerprint(pipeline) != first


def weight(pipeline):
    with torch.no_grad():
        next(pipeline.unet.parameters()).flatten()[0] += 1


def text_encoder(pipeline):
    with torch.no_grad():
        next(pipeline.text_encoder.parameters()).flatten()[0] += 1


def scaled(pipeline):
    pipeline.vae.register_to_config(scaling_factor=0.5)


def heads(pipeline):
    """Of the same weights, more and smaller heads: another function, by a number of a layer."""
    block = pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn1
    block.heads *= 2


@pytest.mark.parametrize(
    "change",
    [
        *(changed_sampler, changed_table, free_u, freeu_further, token, clipped),
        *(style, weaker, switched_off, weight, text_encoder, scaled, heads),
    ],
)
def test_every_setting_counts(pipeline, change):
    before = fingerprint(pipeline)
    change(pipeline)
    assert fingerprint(pipeline) != before


def test_the_shift_of_a_flow_counts():
    pipeline = build(families.sd3)
    before = fingerprint(pipeline)
    pipeline.scheduler.set_shift(5.0)
    assert fingerprint(pipeline) != before
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert fingerprint(pipeline) == before


@pytest.mark.parametrize("family", list(FAMILIES))
def test_what_changes_no_sample_does_not_count(family, tmp_path):
    pipeline = build(FAMILIES[family])
    denoiser, before = denoiser_of(pipeline), fingerprint(pipeline)
    sample_latents(pipeline, ["one" if denoiser.prompt_inputs else ""], seed=0, steps=2)
    denoiser.network.train()
    assert fingerprint(pipeline) == before
    denoiser.network.eval().to(memory_format=torch.channels_last)
    assert fingerprint(pipeline) == before
    for rank in (2, None):
        add_student(denoiser, rank, 0)
        undo(denoiser)
        assert fingerprint(pipeline) == before
    pipeline.save_pretrained(tmp_path)
    assert fingerprint(load_pipeline(str(tmp_path))) == before
