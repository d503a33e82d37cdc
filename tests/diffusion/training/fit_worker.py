"""A real training process, for tests that start several of them or kill one: fits a tiny pipeline, writes its weights.

METHOD is a method's name, or "name,problem", or "name,images".

python -m tests.diffusion.training.fit_worker METHOD OUT [--checkpoint FILE] [--every N] [--rank R] [--accumulate A] ...
"""

import argparse
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import duality as du
from diffusion.methods import (
    FitContext,
    ForgetImages,
    ImageFitContext,
    ImageMethod,
    Images,
    Method,
    PrimalDual,
    TiltedImages,
)
from diffusion.runtime.distributed import is_main
from diffusion.tasks.config import FitConfig
from tests.diffusion.methods.conftest import LEVELS, made, make_denoiser, make_survey

# The tiny survey's ratios are random: two concepts, every method.
ALTERNATE = PrimalDual(inner=3, warmup=0, gain=0.2, samples=6, noise_levels=2)
QUICK = {"inner": 3, "warmup": 0, "extra": 2, "noise_levels": 2, "repeats": 2}
ON_IMAGES = {"tilted": TiltedImages(**QUICK), "primal-dual": ForgetImages(**QUICK)}


def on_images(name: str, settings: FitConfig) -> tuple[Method | ImageMethod, FitContext | ImageFitContext]:
    """Two images of random data out of a tiny DDPM: a method, and what it fits from."""
    denoiser = make_denoiser("ddpm")
    data = torch.rand(20, *denoiser.sample_shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return ON_IMAGES[name], ImageFitContext(denoiser, Images(data[:2], [0.2, 0.1], data), [5.0, 9.0], settings)


def on_concepts(
    name: str, problem: str, settings: FitConfig
) -> tuple[Method | ImageMethod, FitContext | ImageFitContext]:
    """The same for the two concepts of the tiny survey."""
    method = ALTERNATE if name == "primal-dual" else made(name)
    estimate, denoiser = make_survey(), make_denoiser()
    solution = du.solve(LEVELS.get(problem, LEVELS["likelihood"]), estimate.ratios)
    return method, FitContext(denoiser, estimate, solution, settings)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("method")
    parser.add_argument("out", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rank", type=int, default=2)
    parser.add_argument("--accumulate", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", du.FewDrawsWarning)
    name, _, problem = given.method.partition(",")
    settings = FitConfig(
        max_train_steps=given.steps,
        train_batch_size=12,
        rank=given.rank or 1,
        full_weights=not given.rank,
        learning_rate=1e-2 if given.rank else 1e-3,
        seed=3,
        gradient_accumulation_steps=given.accumulate,
    )
    method, context = on_images(name, settings) if problem == "images" else on_concepts(name, problem, settings)
    print("begun", flush=True)

    def progress(_count: int) -> None:
        print("step", flush=True)

    context = replace(context, checkpoint=given.checkpoint, every=given.every, progress=progress)
    outcome = method.fit(context)  # type: ignore[arg-type]  # each made its own
    if is_main():
        weights = {
            n: p.detach().contiguous() for n, p in context.denoiser.network.named_parameters() if p.requires_grad
        }
        rounds = torch.tensor(np.asarray(outcome.multipliers))
        losses = torch.tensor(outcome.losses, dtype=torch.float64)
        extras = {"multipliers": rounds, "losses": losses, "asked": torch.tensor(outcome.asked)}
        save_file(weights | extras, given.out)
    print("done", flush=True)


if __name__ == "__main__":
    main()
