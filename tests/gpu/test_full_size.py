"""Networks of the sizes that people use (random weights), on the CPU, through every stage and the plan: hence `slow`.

Stable Diffusion 1.5 has all of its layers; the others have every layer's own width and fewer layers of each kind, since
with all of them they need more memory than a common CPU machine has. Images are small (latents of 16 x 16) where whole
runs are made: a CPU takes a quarter of a minute for one evaluation at 64 x 64.
"""

from __future__ import annotations

import gc
import resource
import time

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import diffusion
from diffusion.api import prompts_of
from diffusion.pipelines import denoiser_of
from diffusion.training.lora import add_lora
from diffusion.workflows import probe
from diffusion.workflows.dry_run import cost_lines
from tests.gpu import measure, models, run

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")]
SETTINGS = diffusion.Config(
    sampling={"num_inference_steps": 1},
    ratios={
        "num_samples": 10,
        "concept_samples": 10,
        "retained_samples": 10,
        "noisings": 1,
        "classifier_steps": 2,
        "elbo_samples": 1,
        "elbo_noise_levels": 1,
    },
    fit={"max_train_steps": 1, "train_batch_size": 3, "rank": 4, "fixed_multipliers": True},
    evaluation={"samples": 2, "retained_samples": 2, "integrated": 2},  # its integrals are most of the run
)
TASK = diffusion.ConceptTask(
    concepts=[diffusion.Concept(run.CONCEPT, prior=0.1)],
    problem="reverse-kl",
    levels=[0.3],
    retained_prompts=run.RETAINED,
)
#: Where random weights have more than those nats already, a multiple of what they have: there is to be something to do.
LEVELS = {"flux": ["1.2x"]}
#: Fewer layers of each kind, by component; every one has its full width.
FEWER = {
    "sd15": {},
    "sdxl": {"unet": {"transformer_layers_per_block": [1, 1, 2]}, "text_encoder_2": {"num_hidden_layers": 2}},
    "sd3": {"transformer": {"num_layers": 2}, "text_encoder_2": {"num_hidden_layers": 2}},
    "flux": {"transformer": {"num_layers": 1, "num_single_layers": 1}, "text_encoder_2": {"num_layers": 1}},
}
PARAMETERS = {"sd15": 859_520_964}


def built(name, monkeypatch, side=None):
    """The pipeline on the CPU in float32, at ``side`` x ``side`` latents where these are not its own."""
    config = models.config_of(name)
    for part, fewer in FEWER[name].items():
        config["components"][part][1].update(fewer)
    for part in ("unet", "transformer"):
        if side is not None and "sample_size" in config["components"].get(part, [None, {}])[1]:
            config["components"][part][1]["sample_size"] = side
    monkeypatch.setattr(models, "config_of", lambda name: config)
    pipeline = models.build(name, torch.device("cpu"), torch.float32)
    if side is not None and name == "flux":
        pipeline.default_sample_size = side
    return pipeline


def said(name, started):
    """For the docs: what it took. Memory is the process's peak, and so of the largest test before it as well."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\n{name}: {time.perf_counter() - started:.0f} s, at most {peak:.1f} GiB", flush=True)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", FEWER)
def test_every_stage(name, tmp_path, monkeypatch):
    started = time.perf_counter()
    pipeline = built(name, monkeypatch, side=16)
    denoiser = denoiser_of(pipeline)
    if name in PARAMETERS:
        assert sum(parameter.numel() for parameter in denoiser.network.parameters()) == PARAMETERS[name]
    with measure.Recorder(denoiser) as recorder:
        task = TASK.but(levels=LEVELS.get(name, TASK.levels))
        diffusion.unlearn(pipeline, task, SETTINGS, output=tmp_path / "out", bar=recorder)
    seen = {stage["name"] for stage in recorder.stages}
    assert {"samples of q", "ratio classifier", "log ratios", "fit of the LoRA", "evaluation samples"} <= seen
    assert (tmp_path / "out" / "pytorch_lora_weights.safetensors").is_file()
    del pipeline, denoiser, recorder
    gc.collect()
    said(name, started)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", FEWER)
def test_the_plan_at_full_image_size(name, monkeypatch):
    """Stages, evaluations, time and memory for 512 x 512 or 1024 x 1024, by a probe of two or three evaluations.

    What a row of training keeps is a prediction: of SD 1.5 a step of one row is measured, which takes that and the
    work's own room (of the others it takes more memory than a common machine has).
    """
    started = time.perf_counter()
    pipeline = built(name, monkeypatch)
    denoiser, rows = denoiser_of(pipeline), []
    hook = denoiser.network.register_forward_pre_hook(
        lambda _module, args, named: rows.append(
            len(args[0] if args else named.get("sample", named.get("hidden_states")))
        ),
        with_kwargs=True,
    )
    config = diffusion.Config(sampling={"num_inference_steps": 50})
    lines = cost_lines(denoiser, prompts_of(denoiser, TASK), TASK.asked, config)
    hook.remove()
    print("\n" + "\n".join(lines))
    assert "1/8 samples of the base model" in lines[1]
    assert "weights of all components" in lines[-1]
    assert sum(rows) <= 3 or sum(rows) <= 1 + 1 + (probe.REPEATS + 1) * probe.BATCH
    found = probe.probe(denoiser, run.CONCEPT, config.fit)
    parameters = add_lora(denoiser, config.fit.rank, 0)
    assert found.trained == sum(parameter.numel() for parameter in parameters)
    given = probe._states(denoiser, run.CONCEPT, 1)
    with probe._peak(torch.device("cpu")) as peak:
        if name == "sd15":
            denoiser.predict(*given).square().mean().backward()
    if name == "sd15" and peak:  # a system that says how much a process has taken
        print(f"a row of training: {found.kept / 2**30:.2f} GiB predicted, {peak[0] / 2**30:.2f} GiB measured")
        assert 0.5 * found.kept <= peak[0] <= 2 * found.kept
    del pipeline, denoiser, parameters
    gc.collect()
    said(name, started)
