"""SD 1.5 with all of its weights (random ones), on the CPU, through every stage: memory and minutes, hence `slow`.

Images are small (latents of 16 x 16), since a CPU takes a quarter of a minute for one evaluation at 64 x 64.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import diffusion
from diffusion.pipelines import denoiser_of
from tests.gpu import measure, models, run

pytestmark = pytest.mark.slow


@pytest.mark.timeout(3600)
def test_every_stage_of_sd15(tmp_path, monkeypatch):
    config = models.config_of("sd15")
    config["components"]["unet"][1]["sample_size"] = 16
    monkeypatch.setattr(models, "config_of", lambda name: config)
    pipeline = models.build("sd15", torch.device("cpu"), torch.float32)
    denoiser = denoiser_of(pipeline)
    assert sum(parameter.numel() for parameter in denoiser.network.parameters()) == 859_520_964
    task = diffusion.ConceptTask(
        concepts=[diffusion.Concept(run.CONCEPT, prior=0.1)],
        problem="reverse-kl",
        levels=[0.3],
        retained_prompts=run.RETAINED,
    )
    settings = diffusion.Config(
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
        evaluation={"samples": 2, "retained_samples": 2, "integrated": 2},
    )
    with measure.Recorder(denoiser) as recorder:
        diffusion.unlearn(pipeline, task, settings, output=tmp_path / "out", bar=recorder)
    seen = {stage["name"] for stage in recorder.stages}
    assert {"samples of q", "ratio classifier", "log ratios", "fit of the LoRA", "evaluation samples"} <= seen
    assert (tmp_path / "out" / "pytorch_lora_weights.safetensors").is_file()
