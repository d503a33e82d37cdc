"""From a pipeline and its prompts to log ratios that can be trusted: draws, a contrast head, and its examination.

Draws of the concept's prompts and of the contrast prompts train the head (four fifths) and examine it (one fifth).
Draws of the anchor are the draws of q that the problem is solved on; the head never sees them in training.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import duality as du

from .cache import Cache, fingerprint
from .concepts import Prompts
from .draws import STEPS, draw
from .head import ContrastHead, log_snr, noised_features, train_head
from .metrics import Calibration, calibration
from .models import Denoiser
from .ratios import elbo_differences, head_ratios, posterior


class Bar(Protocol):
    def __call__(self, title: str, total: int) -> AbstractContextManager[Any]:
        """A progress bar with ``update(count)``."""
        ...


def progress_bar(title: str, total: int) -> AbstractContextManager[Any]:
    return tqdm(total=total, desc=title.ljust(28), leave=True, dynamic_ncols=True)


@dataclass(frozen=True)
class Budget:
    """How much a survey may cost. One unit is one network call on one draw."""

    concept_draws: int = 600
    contrast_draws: int = 1000
    anchor_draws: int = 1500
    sampler_steps: int = STEPS
    noises: int = 12  # noised copies of each labelled draw that the head learns from
    head_steps: int = 400
    elbo_draws: int = 200
    elbo_levels: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("concept_draws", 10), ("contrast_draws", 10), ("anchor_draws", 10), ("sampler_steps", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Survey:
    """What is known of a pipeline's law, seen from q."""

    prompts: Prompts
    head: ContrastHead
    labelled: Tensor  # (N, ...) draws of concept and contrast prompts
    labels: Tensor  # (N,) concept i, or m for the rest
    labelled_prompts: tuple[str, ...]
    anchor: Tensor  # (n, ...) draws of q
    values: Tensor  # (n, m) log ratios at them, by the head
    elbo: Tensor  # (k, m) ELBO differences at the first k of them, the independent check
    examination: tuple[Calibration, ...]  # per concept, on labelled draws that the head never saw
    fingerprint: str
    budget: Budget

    @property
    def ratios(self) -> du.LogRatios:
        return du.LogRatios(self.values.double().numpy(), priors=list(self.prompts.priors))

    @property
    def posterior(self) -> Tensor:
        """``Pr(i | x)`` (n, m) at the anchor draws."""
        return posterior(self.values, self.prompts.priors)

    @property
    def retained(self) -> tuple[Tensor, tuple[str, ...]]:
        """The draws of the contrast prompts, and their prompts."""
        rest = (self.labels == len(self.prompts.concepts)).nonzero()[:, 0]
        return self.labelled[rest], tuple(self.labelled_prompts[int(j)] for j in rest)

    def coverage(self, index: int = 0) -> tuple[float, float]:
        """Mean posterior over prior and its standard error: 1 where concept prompts and prior account for q's draws."""
        share = self.posterior[:, index] / self.prompts.priors[index]
        return float(share.mean()), float(share.std() / len(share) ** 0.5)

    def agreement(self, index: int = 0) -> float:
        """AUC with which the ELBO difference, which needs no training, ranks what the head calls the concept.

        NaN where none or all of the draws that were looked at are called so.
        """
        from sklearn.metrics import roc_auc_score

        called = (self.posterior[: len(self.elbo), index] > 0.5).numpy()
        if called.all() or not called.any():
            return float("nan")
        return float(roc_auc_score(called, self.elbo[:, index].numpy()))


def survey(
    denoiser: Denoiser, prompts: Prompts, budget: Budget, cache: Cache | None, bar: Bar = progress_bar
) -> Survey:
    """Draw, train the head, examine it, estimate. Every stage is kept in ``cache`` and taken from there next time."""
    store = cache or _NoCache()
    asked = {"prompts": asdict(prompts), "steps": budget.sampler_steps, "seed": budget.seed}
    pipeline, m = denoiser.pipeline, len(prompts.concepts)
    wanted, label_list = prompts.labelled(budget.concept_draws, budget.contrast_draws)
    labels = torch.tensor(label_list)

    def sampled(title: str, some: list[str], seed: int) -> Callable[[], dict[str, Tensor]]:
        def make() -> dict[str, Tensor]:
            with bar(title, len(some)) as shown:
                latents = draw(pipeline, some, seed=seed, steps=budget.sampler_steps, progress=shown.update)
            return {"latents": latents}

        return make

    seed = 10 * budget.seed
    counts = {"concept": budget.concept_draws, "contrast": budget.contrast_draws}
    labelled = store.get("labelled", asked | counts, sampled("draws of known prompts", wanted, seed + 1))["latents"]
    some = [prompts.anchor] * budget.anchor_draws
    anchor = store.get("anchor", asked | {"n": len(some)}, sampled("draws of q", some, seed + 2))["latents"]

    training = torch.ones(len(labels), dtype=torch.bool)
    training[4::5] = False  # the concept's and the contrast's prompts take turns, so every fifth draw is a fair fifth

    def make_head() -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed + 3)
        latents, label = labelled[training], labels[training]
        n, k = len(latents), budget.noises
        # Levels are stratified per draw and denser at low noise, where the solver reads the ratio.
        share = (torch.arange(k)[None] + torch.rand(n, k, generator=generator)) / k
        t = (share**1.5 * (denoiser.levels - 1)).long().flatten()
        with bar("features for the head", n * k) as shown:
            feature = noised_features(
                denoiser,
                latents.repeat_interleave(k, 0),
                t,
                denoiser.condition([""]),
                generator,
                progress=shown.update,
            )
        with bar("contrast head", budget.head_steps) as shown:
            head = train_head(
                feature,
                log_snr(denoiser, t),
                label.repeat_interleave(k),
                prompts.priors,
                steps=budget.head_steps,
                seed=seed + 4,
                progress=shown.update,
            )
        return dict(head.state_dict())

    head_request = asked | counts | {"noises": budget.noises, "head_steps": budget.head_steps}
    state = store.get("head", head_request, make_head)
    head = ContrastHead(state["center"].shape[0], state["log_shares"].exp().tolist(), prompts.priors)
    head.load_state_dict(state)
    head.eval()

    def make_values() -> dict[str, Tensor]:
        with bar("log ratios", 3 * (len(anchor) + int((~training).sum()))) as shown:
            return {
                "anchor": head_ratios(denoiser, head, anchor, seed=seed + 5, progress=shown.update),
                "held out": head_ratios(denoiser, head, labelled[~training], seed=seed + 6, progress=shown.update),
            }

    estimated = store.get("ratios", head_request | {"n": len(anchor)}, make_values)

    def make_elbo() -> dict[str, Tensor]:
        looked_at = anchor[: budget.elbo_draws]
        with bar("ELBO check", len(looked_at) * budget.elbo_levels * (m + 1)) as shown:
            value = elbo_differences(
                denoiser, looked_at, prompts, levels=budget.elbo_levels, seed=seed + 7, progress=shown.update
            )
        return {"values": value}

    elbo_request = asked | {"n": len(anchor), "k": budget.elbo_draws, "levels": budget.elbo_levels}
    elbo = store.get("elbo", elbo_request, make_elbo)["values"]
    examination = tuple(
        _examine(head, estimated["held out"], labels[~training], index) for index in range(len(prompts.concepts))
    )
    return Survey(
        prompts,
        head,
        labelled,
        labels,
        tuple(wanted),
        anchor,
        estimated["anchor"],
        elbo,
        examination,
        cache.model if cache else fingerprint(pipeline),
        budget,
    )


def _examine(head: ContrastHead, values: Tensor, labels: Tensor, index: int) -> Calibration:
    """The head's posterior under the labels' own shares against the labels, for one concept on held-out draws."""
    m = values.shape[1]
    shares = torch.bincount(labels, minlength=m + 1).double() / len(labels)
    log_priors = head.log_priors.double()
    # rho gives every concept's posterior under the priors; the rest has what is left. Re-weigh to the labels' shares.
    of_concepts = (values.double() + log_priors[:-1]).exp()
    rest = (1 - of_concepts.sum(1, keepdim=True)).clamp_min(1e-12)
    score = torch.cat([of_concepts, rest], dim=1).log() - log_priors + shares.log()
    return calibration(score.softmax(-1)[:, index].numpy(), np.asarray(labels == index))


class _NoCache:
    """Computes everything and keeps nothing."""

    def get(self, name: str, request: Any, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        return make()
