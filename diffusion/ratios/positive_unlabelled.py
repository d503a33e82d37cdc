r"""Samples of q itself beside the labelled ones: the contrast when retained prompts are not given, or not all.

Let eta_k = pi_k q_k/q be the posterior, k = 0 .. m (m the rest). A sample of class k has the law q eta_k/pi_k, a sample
of q has the law q, so among training samples with shares s the label of x is distributed as ::

    Pr(k | x)  ~  s_k eta_k(x)/pi_k   (k = 0 .. m),        Pr(q | x)  ~  s_q,

and its log score makes eta the posterior, with q_i/q <= 1/pi_i by construction. With no labelled rest this is
learning from positive and unlabelled samples; with no samples of q it is the plain softmax.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from diffusion.ratios.calibration import Calibration, calibration

#: The share that a class without labelled samples is given: it is never the label of a sample, so it must not compete.
ABSENT = 1e-6


def label_shares(labels: Tensor, classes: int) -> tuple[Tensor, float]:
    """``(s_0 .. s_m, s_q)`` of labels (N,): concepts 0 .. m - 1, the rest m = classes - 1, samples of q m + 1.

    Raises ``ValueError`` where a concept has no sample, or neither the rest nor q has one.
    """
    counts = torch.bincount(labels, minlength=classes + 1)
    if bool((counts[: classes - 1] == 0).any()) or int(counts[classes - 1 :].sum()) == 0:
        raise ValueError(f"labels must show every class, got counts {counts.tolist()}")
    share = counts.double() / counts.sum()
    return share[:classes].clamp_min(ABSENT).float(), float(share[classes])


def contrast_loss(
    score: Tensor, labels: Tensor, log_shares: Tensor, log_priors: Tensor, log_unlabelled: float | None
) -> Tensor:
    """The log score above, a mean over logits (n, m + 1) and labels (n,); ``log_unlabelled``: log s_q, None for none.

    The logits carry the shares: log eta = logits - log s + log pi, up to one constant a sample.
    """
    if log_unlabelled is None:
        return nn.functional.cross_entropy(score, labels)
    eta = (score - log_shares + log_priors).log_softmax(-1)
    known = eta - log_priors + log_shares
    return nn.functional.cross_entropy(torch.cat([known, torch.full_like(known[:, :1], log_unlabelled)], 1), labels)


def validate(values: Tensor, labels: Tensor, index: int, prior: float) -> Calibration:
    """Concept ``index`` against samples of q, from log ratios (n, m) at held-out samples with their labels (n,).

    ``Pr(concept's sample | x) = s_i r/(s_i r + s_q)`` against what each sample is; the AUC is that of the concept
    against
    the rest: a sample of q is the concept with probability pi, so AUC = (AUC against q - pi/2)/(1 - pi).
    """
    m = values.shape[1]
    chosen = (labels == index) | (labels == m + 1)
    is_concept = (labels[chosen] == index).numpy()
    share = is_concept.mean()
    odds = values[chosen, index].double().numpy() + np.log(share) - np.log1p(-share)
    seen = calibration(1 / (1 + np.exp(-odds)), is_concept)
    return replace(seen, auc=float(min(1.0, (seen.auc - prior / 2) / (1 - prior))))
