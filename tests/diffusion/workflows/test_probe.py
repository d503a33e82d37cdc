"""What a plan says of time and memory: measured on the pipeline that is there, which is left as it was."""

import pytest
import torch
from torch import nn

from diffusion.api import prompts_of
from diffusion.pipelines import denoiser_of
from diffusion.pipelines.fingerprint import fingerprint
from diffusion.pipelines.law import under
from diffusion.tasks.config import Config, FitConfig
from diffusion.training.lora import add_student, undo
from diffusion.workflows import probe as probing
from diffusion.workflows.dry_run import cost_lines
from diffusion.workflows.probe import TRAINED, probe
from tests.diffusion import families, jobs
from tests.diffusion.families import build

FIT = FitConfig(rank=2)
PIPELINES = {
    "ddpm": families.ddpm,
    "sd": families.sd,
    "sdxl": families.sdxl,
    "sd3": families.sd3,
    "flux": families.flux,
}


@pytest.mark.parametrize("family", PIPELINES)
def test_a_plan_of_every_family(family):
    pipeline = build(PIPELINES[family])
    denoiser = denoiser_of(pipeline)
    before, flags = fingerprint(pipeline), [p.requires_grad for p in denoiser.network.parameters()]
    given = {"retained": ["one"]} if family != "ddpm" else {}
    concept = [["seven"]] if family != "ddpm" else [torch.zeros(12, *denoiser.sample_shape)]
    if family == "ddpm":
        from diffusion.tasks.concepts import ConceptLaw, Examples, TaskPrompts

        prompts = TaskPrompts((ConceptLaw((), 0.1, Examples(concept[0])),), (), "", unlabelled=True)
        task = jobs.concept_task(["seven"], ("ReverseKL", "1.2x"), priors=0.1)
    else:
        task = jobs.concept_task(concept, ("ReverseKL", "1.2x"), priors=0.1, **given)
        prompts = prompts_of(denoiser, task)
    lines = cost_lines(denoiser, prompts, task.asked, Config(sampling={"num_inference_steps": 4}))
    assert lines[-2].startswith("one evaluation took ")
    assert "for the weights of all components" in lines[-1]
    assert fingerprint(pipeline) == before
    assert [p.requires_grad for p in denoiser.network.parameters()] == flags
    assert not denoiser.network.training


@pytest.mark.parametrize("full", [False, True], ids=["LoRA", "all weights"])
def test_bytes_are_those_of_a_fit(full):
    denoiser = denoiser_of(build(families.sd))
    fit = FIT.but(full_weights=full, train_batch_size=10, gradient_accumulation_steps=4)
    found = probe(denoiser, "", fit)
    modules = [each for each in denoiser.pipeline.components.values() if isinstance(each, nn.Module)]
    assert found.weights == sum(4 * p.numel() for module in modules for p in module.parameters())
    parameters = add_student(denoiser, fit.adapter_rank, 0)
    assert found.trained == sum(p.numel() for p in parameters)
    copy = 4 * found.trained if full else 0  # of the base model
    assert found.training(fit) == 3 * found.kept + TRAINED * found.trained + copy  # 10 rows in 4 parts: 3 at once
    undo(denoiser)


def kept(denoiser, **fit):
    return probe(denoiser, "", FIT.but(**fit)).kept


def test_what_a_row_keeps_follows_what_is_asked():
    """Less where activations are computed again or are halves, and more for more pixels."""
    denoiser = denoiser_of(build(families.sd))
    whole = kept(denoiser)
    assert kept(denoiser, gradient_checkpointing=True) < 0.7 * whole
    assert kept(denoiser, mixed_precision="bf16") < whole
    twice = kept(under(denoiser, size=(32, 32)))  # four times the pixels of 16 x 16
    assert 3.5 * whole < twice < 8 * whole  # attention, of tokens squared, is part of it


def test_a_slow_network_is_asked_for_single_rows(monkeypatch):
    """On a CPU a row of Stable Diffusion takes seconds: two evaluations say it all."""
    denoiser, rows = denoiser_of(build(families.sd)), []

    def count(_module, args, named):
        rows.append(len(args[0] if args else named["sample"]))

    denoiser.network.register_forward_pre_hook(count, with_kwargs=True)
    monkeypatch.setattr(probing, "SLOW", 0.0)
    assert probe(denoiser, "", FIT).rows == 1
    assert rows == [1, 1]
    rows.clear()
    monkeypatch.setattr(probing, "SLOW", 1e9)
    assert probe(denoiser, "", FIT).rows == probing.BATCH
    assert rows == [1, 1, *[probing.BATCH] * probing.REPEATS]


def test_half_precision_takes_half(monkeypatch):
    single, half = (
        probe(denoiser_of(build(families.sd).to(dtype)), "", FIT) for dtype in (torch.float32, torch.bfloat16)
    )
    assert half.weights == single.weights // 2
    assert half.trained == single.trained
