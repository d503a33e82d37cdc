r"""The ratio classifier: log ratios at every noise level from a frozen network's own features.

Samples of concept i's prompts (label i) and of the contrast prompts (label m) are noised with the shared
kernel; a small classifier on the frozen network's activations tells them apart by the log score. At its optimum the
logits are ``log q_k,t(x_t) + log s_k + const`` with ``s_k`` the shares of the labels, so that under priors ``pi`` ::

    rho_i,t(x_t) = (l_i - log s_i) - log sum_k pi_k exp(l_k - log s_k),      pi_m = 1 - sum_i pi_i,

bounded above by ``-log pi_i``. Conditional samples are compared with conditional samples only: a network's
unconditional prediction, which is not quite the mixture of its conditional ones, takes no part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from diffusion.pipelines import Condition, Denoiser, add_noise, repeat
from diffusion.pipelines.base import device_of, noise_of
from diffusion.pipelines.batch_size import evaluation_limit
from diffusion.ratios.noised_network import DROPPED as DROPPED
from diffusion.ratios.noised_network import NoisedNetwork
from diffusion.ratios.positive_unlabelled import contrast_loss, label_shares
from diffusion.runtime.memory import in_halves
from diffusion.runtime.seeds import seeded_weights

BATCH = 512  # rows of a training step


class Bottleneck:
    """Catches the bottleneck's activations of the running forward pass: ``with Bottleneck(denoiser) as caught``.

    ``caught.last`` (n, c, h, w): a UNet's middle, or the image's tokens in the middle block of a transformer.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self._module, self._activations = denoiser.bottleneck, denoiser.activations
        self.last: Tensor | None = None

    def __enter__(self) -> Bottleneck:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self.last = self._activations(output)

        self._handle = self._module.register_forward_hook(keep)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def pooled(caught: Tensor, output: Tensor) -> Tensor:
    """Features (n, D): activations averaged to at most 4x4 places, and the prediction averaged to at most 8x8."""
    inner = nn.functional.adaptive_avg_pool2d(caught.float(), min(4, *caught.shape[-2:])).flatten(1)
    if output.ndim == 3:  # tokens row by row
        outer = nn.functional.adaptive_avg_pool1d(output.float().transpose(1, 2), min(64, output.shape[1])).flatten(1)
    else:
        outer = nn.functional.adaptive_avg_pool2d(output.float(), min(8, *output.shape[-2:])).flatten(1)
    return torch.cat([inner.to(outer.device), outer], dim=1)


def features(denoiser: Denoiser, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """:func:`pooled` (n, D) of one pass of the frozen network over noised states x (n, ...) at levels t (n,)."""
    with torch.no_grad(), Bottleneck(denoiser) as caught:
        output = denoiser.predict(x, t, condition)
    return pooled(cast(Tensor, caught.last), output)


class RatioClassifier(NoisedNetwork):
    """Told apart: m concepts and the rest; ``forward`` gives rho (n, m)."""

    log_shares: Tensor
    log_priors: Tensor

    def __init__(self, width: int, shares: Sequence[float], priors: Sequence[float], members: int = 3) -> None:
        super().__init__(width, len(shares), members)
        self.register_buffer("log_shares", torch.tensor(shares).log())
        self.register_buffer("log_priors", torch.tensor([*priors, 1 - sum(priors)]).log())

    def log_posterior(self, feature: Tensor, log_snr: Tensor) -> Tensor:
        """``log Pr(k | x_t)`` (n, m + 1) under the priors: the members' mean log score, normalised again.

        On the classifier's own device, wherever the features are.
        """
        score = torch.stack([logits.log_softmax(-1) for logits in self.each(feature, log_snr)]).mean(0)
        return (score - self.log_shares + self.log_priors).log_softmax(-1)

    def forward(self, feature: Tensor, log_snr: Tensor) -> Tensor:
        return (self.log_posterior(feature, log_snr) - self.log_priors)[:, :-1]


def log_snr(denoiser: Denoiser, t: Tensor) -> Tensor:
    """``log signal^2 / noise^2`` (n,), cut to +-12 where rounding would otherwise decide."""
    signal, noise = denoiser.schedule(t)
    value = 2 * (signal.log() - noise.log()).flatten()
    return value.clamp(-12, 12)


def noised_features(
    denoiser: Denoiser,
    latents: Tensor,
    t: Tensor,
    condition: Condition,
    generator: torch.Generator,
    batch: int = 256,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """Features (n, D), on the CPU, of samples (n, ...) noised to levels t (n,)."""
    parts, device = [], device_of(denoiser)
    limit = evaluation_limit(denoiser, batch)
    start = 0
    while start < len(latents):
        some, level = latents[start : start + limit.rows], t[start : start + limit.rows].to(device)
        noise = noise_of([generator] * len(some), some.shape[1:])

        def made(first: int, last: int, some: Tensor = some, noise: Tensor = noise, level: Tensor = level) -> Tensor:
            rows = slice(first, last)
            x = add_noise(denoiser, some[rows].to(device), noise[rows].to(device, some.dtype), level[rows])
            return features(denoiser, x, level[rows], repeat(condition, len(x))).cpu()

        parts += in_halves(made, 0, len(some), limit)
        start += len(some)
        if progress is not None:
            progress(len(some))
    return torch.cat(parts)


def train_classifier(
    feature: Tensor,
    snr: Tensor,
    labels: Tensor,
    priors: Sequence[float],
    *,
    steps: int = 800,
    seed: int,
    device: torch.device | None = None,
    progress: Callable[[int], object] | None = None,
) -> RatioClassifier:
    """Minimise the log score ``-E log softmax(l)_label`` over features (N, D), log SNR (N,), labels (N,).

    Label m + 1 marks samples of q itself, of which nobody knows what they show
    (:mod:`diffusion.ratios.positive_unlabelled`). ``device``: where it is trained and stays, by default the CPU;
    features are moved there as they are used.
    """
    shares, share_of_q = label_shares(labels, len(priors) + 1)
    log_unlabelled = math.log(share_of_q) if share_of_q > 0 else None
    with seeded_weights(seed):  # initial weights and dropout: nn layers take no generator
        classifier = RatioClassifier(feature.shape[1], shares.tolist(), priors)
        classifier.standardise(feature)
        classifier.to(device)
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-3, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            optimizer.zero_grad()
            for (
                member
            ) in classifier.members:  # each member sees its own batches: their errors differ, the mean has less
                chosen = torch.randint(len(labels), (BATCH,), generator=generator)
                rows, at, label = (some[chosen].to(device) for some in (feature, snr, labels))
                score = classifier.logits(cast(nn.ModuleDict, member), rows, at)
                contrast_loss(score, label, classifier.log_shares, classifier.log_priors, log_unlabelled).backward()
            optimizer.step()
            schedule.step()
            if progress is not None:
                progress(1)
    return classifier.eval()
