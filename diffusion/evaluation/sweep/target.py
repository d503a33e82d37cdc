r"""The optimal target itself on a task of the canvas, by rejection: what a fitted network is held against.

The level of ours is solved for under its law of prompts, on as many samples, and nothing is fitted. Every prompt, also
one that no method sees, has the target with that multiplier, q being of its anchor where it asks for the concept::

    p_c = q_c e^{-lam·l}/Z_c,    Z_c = E_q[e^{-lam·l}],    KL(p_c ‖ q_c) = E_q[u log u]/Z_c - log Z_c,  u = e^{-lam·l}

So what ours leaves beyond this row is what its fit left, and what this row leaves is what the classifier that ours sees
does not: by the network alone neither can be told from the other. It is no network, and a sample of it takes 1/Z of the
base model's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import duality as du
from diffusion.evaluation.bounds import Estimate
from diffusion.evaluation.sweep.canvas import CanvasTask, CellPrompt, law_of
from diffusion.evaluation.sweep.measure import ASKED, Made, Measured, against_base, looked_at, paying
from diffusion.evaluation.sweep.point import Figure
from diffusion.guidance.rejection import rejection_samples
from diffusion.pipelines import Denoiser
from diffusion.pipelines.sampling import sample_latents
from diffusion.ratios.detected import detect, grouped, sample_law
from diffusion.runtime.progress import Bar, progress_bar
from diffusion.tasks.concepts import normalised
from diffusion.tasks.config import RatiosConfig, Sampling
from diffusion.tasks.prompts import Prompt, Prompts
from diffusion.wardrobe.prompts import fallen_back


def solve(
    denoiser: Denoiser, task: CanvasTask, sampling: Sampling, level: float, budget: RatiosConfig,
    bar: Bar = progress_bar,
) -> NDArray[np.float64]:  # fmt: skip
    """Multipliers (1,) of the level of the task's detector under its law of prompts."""
    law = law_of(task)
    row, _, detected = sample_law(denoiser, law, [task.detector()], budget, sampling, None, bar)
    ratios = grouped(law, row, detected)
    return du.solve(du.Likelihood(level, kind="detector"), ratios).multipliers


def measure_target(
    denoiser: Denoiser, task: CanvasTask, sampling: Sampling, settings: Measured, base: Made,
    multipliers: NDArray[np.float64],
) -> list[Figure]:  # fmt: skip
    """All figures of the target with these multipliers, from the noise that the base model's samples came from."""
    asked, rule = task.groups(settings.samples, settings.seed), ([task.detector()], multipliers)
    prompts, chosen = _anchored(task, asked)
    found = rejection_samples(denoiser, prompts, chosen, sampling, rule, seed=settings.seed + 1)
    figures = against_base(task, base, looked_at(denoiser, asked, found.latents), settings.seed)
    for name, texts, anchors in paying(task, settings):
        latents = sample_latents(denoiser.pipeline, anchors or texts, seed=settings.seed + 3, **sampling.call(denoiser))
        said = detect(denoiser.pipeline, latents, rule[0]).numpy()
        figures.append(Figure(name="cost", prompts=name, estimate=tilt_cost(-said @ multipliers)))
    return figures


def tilt_cost(log_u: NDArray[np.float64]) -> Estimate:
    r"""``E[u log u]/Z - log Z`` in nats, Z = E[u], from log u (n,) at samples of q, all with one normaliser.

    Its standard error is that of the mean of its influence ``(u log u - A)/Z - (A/Z^2 + 1/Z)(u - Z)``, A = E[u log u].
    """
    u = np.exp(log_u - log_u.max())
    terms = u * (log_u - log_u.max())  # a factor of u moves neither the law nor its cost
    z, a = float(u.mean()), float(terms.mean())
    influence = (terms - a) / z - (a / z**2 + 1 / z) * (u - z)
    n = len(u)
    spread = float(influence.std(ddof=1)) / n**0.5 if n > 1 else float("nan")
    return Estimate(mean=a / z - float(np.log(z)), stderr=spread, n=n)


def _anchored(task: CanvasTask, groups: dict[str, list[CellPrompt]]) -> tuple[Prompts, NDArray[np.int64]]:
    """Every prompt of the groups once, at its anchor where it asks for the concept, and the number (n,) of each."""
    anchors = {
        normalised(each.prompt): Prompt(
            prompt=each.prompt, anchor=fallen_back(each.prompt, task.concept) if name in ASKED else None
        )
        for name, some in groups.items()
        for each in some
    }
    number = {text: j for j, text in enumerate(anchors)}
    chosen = [number[normalised(each.prompt)] for some in groups.values() for each in some]
    return Prompts(list(anchors.values())), np.array(chosen)
