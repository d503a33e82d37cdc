"""What a sampler makes under a law of prompts: samples, what detectors say of them, a detector of noised states.

Nothing here is a ratio: a level on a detector is about that detector, so the only error left is that of finite samples.
Prompts have normalisers of their own (``duality.LogRatios(groups=...)``) and share multipliers. The logarithm of a mean
of n weights is biased by -Var(w)/(2 n Z^2), so prompts of one named group of which there are few samples each share one
normaliser: the group is what is asked, which of its prompts is part of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import duality as du
from diffusion.pipelines import Denoiser, add_noise, rows
from diffusion.pipelines.fingerprint import fingerprint
from diffusion.pipelines.latents import decode, try_out
from diffusion.pipelines.sampling import sample_latents
from diffusion.ratios.calibration import Calibration, calibration
from diffusion.ratios.classifier import features, log_snr
from diffusion.ratios.noised_detector import NoisedDetector, train_noised_detector
from diffusion.runtime.cache import Cache
from diffusion.runtime.progress import Bar, progress_bar
from diffusion.tasks.config import RatiosConfig, Sampling
from diffusion.tasks.detector_levels import Constraint, columns
from diffusion.tasks.detectors import CheckedDetector
from diffusion.tasks.levels import Level
from diffusion.tasks.prompts import Prompts

DECODED = 64  # images held at a time
BATCH = 256
CLEAN = 0.03  # of all noise levels: where the noised detector is validated
FEW = 20  # samples of a prompt, below which it shares the normaliser of its group, where it is of one


@dataclass(frozen=True)
class DetectedSamples:
    """What the sampler makes under a law of prompts, and what detectors say of it.

    ``constraints`` (m,): what is asked of the detectors; left out, the present level of each, of all prompts.
    """

    prompts: Prompts
    names: tuple[str, ...]  # (k,) of the concepts
    rows: Tensor  # (n,) the prompt of each sample
    latents: Tensor  # (n, ...)
    detected: Tensor  # (n, k) double, in [0, 1]
    noised_detector: NoisedDetector
    validation: tuple[Calibration | None, ...]  # (k,) of the noised detector, on samples that it never saw
    fingerprint: str
    budget: RatiosConfig
    sampling: Sampling
    constraints: tuple[Constraint, ...] = ()

    def __post_init__(self) -> None:
        if not self.constraints:
            each = (Constraint(name, k, "upper", Level(1.0, relative=True)) for k, name in enumerate(self.names))
            object.__setattr__(self, "constraints", tuple(each))

    @property
    def ratios(self) -> du.LogRatios:
        """What the solver is given, with a column for each constraint."""
        return grouped(self.prompts, self.rows, columns(self.prompts, self.constraints, self.rows, self.detected))

    @property
    def texts(self) -> list[str]:
        """The prompt (n,) that each sample stands for."""
        return [self.prompts.texts[int(j)] for j in self.rows]


def detect(
    pipeline: object, latents: Tensor, detectors: Sequence[CheckedDetector], say: Callable[[int], object] | None = None
) -> Tensor:
    """What every detector says (n, m), double, of samples (n, ...); no more than a few images are held at a time."""
    parts = []
    for some in latents.split(DECODED):
        images = decode(pipeline, some)
        parts.append(np.stack([detector(images) for detector in detectors], axis=1))
        if say is not None:
            say(len(some))
    return torch.from_numpy(np.concatenate(parts))


def sample_prompts(
    denoiser: Denoiser, prompts: Prompts, chosen: NDArray[np.int64], sampling: Sampling, *, seed: int,
    own: bool = False, progress: Callable[[int], object] | None = None,
) -> Tensor:  # fmt: skip
    """Samples (n, ...) under prompts by number (n,); ``own``: under what is asked, else under the anchors."""
    texts = prompts.texts if own else prompts.sampled
    wanted = [texts[int(j)] for j in chosen]
    return sample_latents(denoiser.pipeline, wanted, seed=seed, progress=progress, **sampling.call(denoiser))


def grouped(prompts: Prompts, rows: Tensor, said: Tensor) -> du.LogRatios:
    """Columns (n, m) at samples of prompts by number (n,), with a group for each normaliser (:func:`normalisers`)."""
    number = normalisers(prompts, rows)
    asked = prompts.probabilities
    share = np.bincount(number[asked > 0], weights=asked[asked > 0])
    return du.LogRatios(detectors=said.numpy(), groups=number[rows.numpy()], group_weights=share / share.sum())


def normalisers(prompts: Prompts, rows: Tensor) -> NDArray[np.int64]:
    """The normaliser (C,), counted from 0, of each prompt; -1 for one that is never asked.

    One for each prompt; prompts of one group of which there are fewer than :data:`FEW` samples each share one.
    """
    asked, found = prompts.probabilities, np.full(len(prompts), -1, dtype=np.int64)
    counts = np.bincount(rows.numpy(), minlength=len(prompts))
    known: dict[tuple[str | None, int], int] = {}
    for c, each in enumerate(prompts.prompts):
        if asked[c] > 0:
            alone = each.group is None or counts[c] >= FEW
            found[c] = known.setdefault((None, c) if alone else (each.group, -1), len(known))
    return found


def sample_law(
    denoiser: Denoiser,
    prompts: Prompts,
    detectors: Sequence[CheckedDetector],
    budget: RatiosConfig,
    sampling: Sampling,
    cache: Cache | None,
    bar: Bar = progress_bar,
) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts by number (n,), samples (n, ...), and what detectors say of them (n, m).

    Raises ``ValueError`` where a detector's answers do not fit; ``FloatingPointError`` naming a component that returns
    NaN or inf.
    """
    chosen = np.repeat(np.arange(len(prompts)), prompts.counts(budget.num_samples))
    asked = {"prompts": prompts.plain(), "sampling": sampling.plain(), "n": len(chosen), "seed": budget.seed}

    def sampled() -> dict[str, Tensor]:
        try_out(denoiser.pipeline, prompts.sampled[0], **sampling.call(denoiser))
        with bar("samples of the prompts", len(chosen)) as shown:
            found = sample_prompts(denoiser, prompts, chosen, sampling, seed=budget.anchor_seed, progress=shown.update)
        return {"latents": found}

    latents = (cache.get("prompted", asked, sampled) if cache else sampled())["latents"]
    with bar("detectors", len(latents)) as shown:  # asked anew each time: nobody can tell two callables apart
        detected = detect(denoiser.pipeline, latents, detectors, shown.update)
    return torch.from_numpy(chosen), latents, detected


def estimate_detected(
    denoiser: Denoiser,
    prompts: Prompts,
    detectors: Mapping[str, CheckedDetector],
    budget: RatiosConfig,
    sampling: Sampling,
    cache: Cache | None,
    bar: Bar = progress_bar,
) -> DetectedSamples:
    """:func:`sample_law` for one detector of each concept, by name, and a detector of noised states."""
    sampling = sampling.resolved(denoiser)
    row, latents, detected = sample_law(denoiser, prompts, list(detectors.values()), budget, sampling, cache, bar)
    training = ~held_out(len(latents))
    feature, snr, of = _noised(denoiser, prompts, latents[training], row[training], budget, bar)
    with bar("noised detector", budget.classifier_steps) as shown:
        noised_detector = train_noised_detector(
            feature, snr, detected[training].float()[of],
            steps=budget.classifier_steps, seed=10 * budget.seed + 4, progress=shown.update,
        )  # fmt: skip
    seen = _said(denoiser, prompts, noised_detector, latents[~training], row[~training], 10 * budget.seed + 6)
    validation = tuple(_validated(seen[:, i].numpy(), detected[~training][:, i].numpy()) for i in range(len(detectors)))
    name = cache.model if cache else fingerprint(denoiser.pipeline)
    return DetectedSamples(
        prompts, tuple(detectors), row, latents, detected, noised_detector, validation, name, budget, sampling
    )


def held_out(count: int) -> Tensor:
    """Whether each of ``count`` samples is kept from the noised detector, which is then looked at on them."""
    return torch.arange(count) % 5 == 4


def noise_levels(denoiser: Denoiser, count: int, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """k levels t (count k,) of each sample, stratified and denser at low noise, and which sample each is of."""
    share = (torch.arange(k)[None] + torch.rand(count, k, generator=generator)) / k
    return (share**1.5 * (denoiser.levels - 1)).long().flatten(), torch.arange(count).repeat_interleave(k)


def _noised(
    denoiser: Denoiser, prompts: Prompts, latents: Tensor, row: Tensor, budget: RatiosConfig, bar: Bar
) -> tuple[Tensor, Tensor, Tensor]:
    """Features of noised samples under their own prompts, log SNR, and which sample each is of."""
    generator = torch.Generator().manual_seed(10 * budget.seed + 3)
    t, of = noise_levels(denoiser, len(latents), budget.noisings, generator)
    with bar("features for the noised detector", len(of)) as shown:
        feature = _features(denoiser, prompts, latents, row, (of, t), generator, shown.update)
    return feature, log_snr(denoiser, t), of


def _features(
    denoiser: Denoiser, prompts: Prompts, latents: Tensor, row: Tensor, states: tuple[Tensor, Tensor],
    generator: torch.Generator, say: Callable[[int], object] | None = None,
) -> Tensor:  # fmt: skip
    conditions, parts = denoiser.condition(prompts.sampled), []
    for some, level in zip(states[0].split(BATCH), states[1].split(BATCH), strict=True):
        x0 = latents[some]
        x = add_noise(denoiser, x0, torch.randn(x0.shape, generator=generator), level)
        parts.append(features(denoiser, x, level, rows(conditions, row[some])))
        if say is not None:
            say(len(some))
    return torch.cat(parts)


def _said(
    denoiser: Denoiser, prompts: Prompts, noised_detector: NoisedDetector, latents: Tensor, row: Tensor, seed: int
) -> Tensor:
    """eta (n, m) at the lowest noise."""
    t = torch.full((len(latents),), round(CLEAN * (denoiser.levels - 1)))
    generator = torch.Generator().manual_seed(seed)
    feature = _features(denoiser, prompts, latents, row, (torch.arange(len(latents)), t), generator)
    with torch.no_grad():
        return noised_detector(feature, log_snr(denoiser, t)).double()


def _validated(eta: NDArray[np.float64], detected: NDArray[np.float64]) -> Calibration | None:
    """None where all held-out samples show the concept, or none does: nothing can be ranked."""
    shown = detected > 0.5
    return None if shown.all() or not shown.any() else calibration(np.clip(eta, 0, 1), shown)
