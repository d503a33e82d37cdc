"""Two small models of real digits: one that was never shown eight planted images, and one that copies them.

::

    base   trained on the training digits                                           (steps): never shown
    copy   base, trained further on the digits and on r_i copies of planted image i (further steps): copies

Both are an unconditional ``DDPMPipeline`` of 8x8 pixels in [-1, 1], v-prediction under the cosine schedule. Training
further is cheaper than training twice; it also means that the copying model has taken more steps than the other.

The planted images are real held-out digits: those that resemble the training digits least, so that a copy is not
taken for an ordinary digit. How often each is planted is chosen at random, so that oddity and repeats are not one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.digits.data import load_digits
from diffusion.digits.experiments.planted_measures import features, similarity
from diffusion.digits.experiments.pretraining import Pretraining
from diffusion.pipelines import denoiser_of, rows
from diffusion.runtime.distributed import WHOLE, Part
from diffusion.runtime.seeds import seeded_weights
from diffusion.training.batches import spread_levels

REPEATS = (16, 20, 26, 34, 44, 56, 72, 92)


@dataclass(frozen=True)
class Stage:
    """``planted`` (8, 1, 8, 8), ``repeats`` (8,); training ``digits`` and other ``held_out`` ones (n, 1, 8, 8)."""

    planted: Tensor
    repeats: np.ndarray
    digits: Tensor
    held_out: Tensor

    @property
    def shares(self) -> np.ndarray:
        """pi (8,), repeats over the size of the data that the copying model was trained on."""
        return np.asarray(self.repeats / (len(self.digits) + self.repeats.sum()))

    @property
    def data(self) -> Tensor:
        """What the copying model was trained on."""
        return torch.cat([self.digits, self.planted.repeat_interleave(torch.tensor(self.repeats), 0)])


def make_stage(seed: int = 0) -> Stage:
    """The images of the study, a function of the seed."""
    digits, held_out = (torch.from_numpy(2 * load_digits(part).images[:, None] - 1) for part in ("train", "held-out"))
    nearest = similarity(features(held_out), features(digits)).max(1)
    odd = np.argsort(nearest)[: len(REPEATS)]
    repeats = np.array(REPEATS)[np.random.default_rng(seed).permutation(len(REPEATS))]
    return Stage(held_out[odd], repeats, digits, held_out[np.setdiff1d(np.arange(len(held_out)), odd)])


def build() -> Any:
    """An untrained ``DDPMPipeline``, 0.7 M parameters."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=16,
        norm_num_groups=16,
    )
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=True)
    pipeline = DDPMPipeline(unet=unet.eval(), scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seeded(seed: int) -> Any:
    """An untrained pipeline, a function of the seed; the global state of the generator is restored."""
    with seeded_weights(seed):
        return build()


def train(
    pipeline: Any,
    data: Tensor,
    folder: Path,
    *,
    steps: int,
    rate: float,
    seed: int,
    prompts: Sequence[str] = (),
    batch: int = 48,
) -> None:
    """Trains the pipeline's network on samples (n, ...) under ``prompts`` (n,), left out, empty; averages in place.

    Resumes from ``folder``.
    """
    denoiser = denoiser_of(pipeline)
    distinct = sorted(set(prompts)) or [""]
    conditions = denoiser.condition(distinct)
    row = torch.tensor([distinct.index(prompt) for prompt in prompts or [""] * len(data)])

    def loss(_step: int, generator: torch.Generator, _part: Part = WHOLE) -> Tensor:
        chosen = torch.randint(len(data), (batch,), generator=generator)
        x0, condition = data[chosen], rows(conditions, row[chosen])
        t = spread_levels(denoiser, batch, generator)
        eps = torch.randn(x0.shape, generator=generator)
        signal, noise = (value.float() for value in denoiser.schedule(t))
        said = denoiser.predict(signal * x0 + noise * eps, t, condition)
        return (said - denoiser.target(x0, eps, t).float()).square().mean()

    Pretraining(folder, {"unet": pipeline.unet}, loss, steps, rate, seed).complete()


@dataclass(frozen=True)
class Models:
    """Both pipelines."""

    base: Any
    copy: Any


def make_models(stage: Stage, folder: Path, *, steps: int, further: int, seed: int) -> Models:
    """Both pipelines; resumed from ``folder`` where a run was stopped, loaded where it was finished."""
    base, copy = seeded(seed), build()
    train(base, stage.digits, folder / "base", steps=steps, rate=2e-3, seed=seed)
    copy.unet.load_state_dict(base.unet.state_dict())
    train(copy, stage.data, folder / "copy", steps=further, rate=1e-3, seed=seed + 1)
    return Models(base, copy)
