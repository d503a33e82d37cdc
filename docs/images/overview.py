"""The README's image: ``python docs/images/overview.py`` writes overview.png beside itself, in one to two minutes.

Above, a problem on a mixture whose densities are known: target, dual function, trade-off. Below, the same problem on
the embedded pipeline, whose densities are known by samples only: images before, and guided by the solution.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from diffusers.utils.logging import disable_progress_bar

import duality as du
import toy
from diffusion.digits.prompts import DigitsClassifiers, prompts_for
from diffusion.guidance.guided import Guided
from diffusion.pipelines import denoiser_of, load_pipeline
from diffusion.pipelines.latents import decode
from diffusion.pipelines.sampling import sample_latents
from diffusion.ratios.estimate import estimate_ratios
from diffusion.tasks.config import RatiosConfig, Sampling
from toy import plots, studies

LEVEL, DRAWS, SHOWN, COLUMNS = 0.01, 800, 98, 14
BUDGET = RatiosConfig(
    concept_samples=300, retained_samples=600, num_samples=DRAWS, noisings=8, classifier_steps=300, elbo_samples=10
)


def images() -> tuple[du.Solution, dict[str, tuple[Any, Any]]]:
    """The solution on ``digits``, and (images, which of them show a seven to a classifier) before and guided."""
    disable_progress_bar()
    pipeline, prompts, image_classifier = (
        load_pipeline("digits"),
        prompts_for(["a handwritten seven"]),
        DigitsClassifiers(),
    )
    denoiser = denoiser_of(pipeline)
    estimate = estimate_ratios(denoiser, prompts, BUDGET, Sampling(), None)
    solution = du.solve(du.Likelihood(LEVEL), estimate.ratios)
    with Guided(denoiser, prompts, estimate.classifier, solution.guidance):
        latents = sample_latents(
            pipeline, [""] * DRAWS, seed=2, steps=Sampling().num_inference_steps
        )  # the seed of the samples of q
    found = {}
    for name, samples in (("before", estimate.anchor), ("guided by the solution", latents)):
        made = decode(pipeline, samples)
        found[name] = made.mean(1), image_classifier(made)["CNN"] == 7
    return solution, found


def main() -> None:
    matplotlib.use("agg")
    example = toy.example("worked")
    problem = du.Likelihood(LEVEL, priors=example.priors)
    answer = toy.solve(problem, example.pretrained, example.unlearn, priors=example.priors)
    ratios = toy.log_ratios(example.pretrained, example.unlearn, priors=example.priors)
    levels = np.concatenate([[0.3], np.linspace(0.29, 0.015, 40), [LEVEL], np.geomspace(0.008, 0.0005, 12)])
    curve = du.frontier(problem, ratios, levels)
    solution, found = images()
    print(solution)
    plt = plots.pyplot()
    with plt.rc_context({**plots.STYLE, "axes.titlesize": 12.0}):
        figure = plt.figure(figsize=(13.6, 8.6), layout="constrained")
        above, below = figure.subfigures(2, 1, height_ratios=(1.0, 1.05), hspace=0.03)
        first, second, third = above.subplots(1, 3)
        plots.plot_densities(answer, first)
        first.set_title("1  The optimal target without the concept")
        plots.plot_dual(answer, 0, second)
        second.set_title("2  One concave function gives it")
        plots.plot_frontier(curve, mark=int(np.flatnonzero(levels == LEVEL)[0]), ax=third)
        third.set_title("3  What every level costs")
        for ax, (name, (shown, sevens)) in zip(below.subplots(1, 2), found.items(), strict=True):
            studies.plot_pictures(shown[:SHOWN], sevens[:SHOWN], columns=COLUMNS, ax=ax)
            print(f"{name}: {sevens.sum()} of {DRAWS}")
            ax.set_title(f"{name}: {sevens.sum()} of {DRAWS} samples show a seven")
        below.suptitle(
            "4  The same problem on a Stable Diffusion pipeline: no sevens (framed), at most 1 %",
            x=0.01,
            ha="left",
            fontsize=12,
            color=plots.INK,
        )
    figure.savefig(Path(__file__).with_name("overview.png"), dpi=100)


if __name__ == "__main__":
    main()
