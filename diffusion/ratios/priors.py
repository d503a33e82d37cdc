r"""The fraction of unconditional samples that show a concept, estimated where it is not given, with its standard error.

**Contrast prompts** (:func:`mixture_priors`). q is taken for a mixture of known parts, q = sum_k pi_k q_k, and ::

    pi* = argmax over pi of  (1/n) sum_j log sum_k pi_k q_k(x_j)/q_0(x_j),        x_j ~ q,

concave in pi; errors from the information at pi*. At pi* the mean posterior *is* the prior, so coverage is no check
any more. Source: Saerens, Latinne, Decaestecker (Neural Computation 2002).

**None** (:func:`unlabelled_prior`). Samples of q alone are the contrast. With g(x) = s_i r/(s_i r + s_q) the
probability that x came from the concept's samples (s the shares of both in the training set, r = q_i/q), and
`c = E_{q_i}[g]`, ::

    pi = s_i (1 - c) / (s_q c),

exact where the concept stands apart (r = 1/pi on all of it), too large otherwise: nobody can tell a part of the
concept that looks like the rest from the rest. Source: Elkan, Noto (KDD 2008).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SMALLEST = 1e-4


def _parts(values: NDArray[np.float64], priors: NDArray[np.float64]) -> NDArray[np.float64]:
    """``log q_k/q_0`` (n, m + 1), q_0 the mixture under ``priors``; the rest has what the concepts leave."""
    left = 1 - np.exp(values) @ priors
    return np.column_stack([values, np.log(np.maximum(left, 1e-12)) - np.log1p(-priors.sum())])


def mixture_priors(
    values: NDArray[np.float64], priors: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``(pi*, standard errors)``, each (m,), from log ratios (n, m) to the mixture under ``priors`` (m,).

    Raises ``ValueError`` where the samples show none of a concept: a posterior needs a prior above 0.
    """
    parts = _parts(np.asarray(values, float), np.asarray(priors, float))
    scale = parts.max(1, keepdims=True)
    likelihood = np.exp(parts - scale)
    share = np.full(parts.shape[1], 1 / parts.shape[1])
    for _ in range(10_000):
        mixed = likelihood * share
        update = (mixed / mixed.sum(1, keepdims=True)).mean(0)
        moved, share = np.abs(update - share).max(), update
        if moved < 1e-12:
            break
    found = share[:-1]
    if (found < SMALLEST).any():
        raise ValueError(
            f"priors could not be estimated: {len(parts)} samples of the model show next to nothing of a concept "
            f"(estimates {found.tolist()}); give the priors"
        )
    # The score of sample j is (q_i - q_rest)/q; its covariance is the information of one sample.
    score = (likelihood[:, :-1] - likelihood[:, -1:]) / (likelihood @ share)[:, None]
    information = score.T @ score
    return found, np.sqrt(np.diag(np.linalg.pinv(information)))


def unlabelled_prior(
    log_ratio: NDArray[np.float64], concept_share: float, unlabelled_share: float
) -> tuple[float, float]:
    """``(pi, standard error)`` from ``log q_i/q`` (k,) at held-out samples of the concept, and the two shares s.

    Raises ``ValueError`` where the estimate is no probability: the concept's samples look like any others.
    """
    odds = np.asarray(log_ratio, float) + np.log(concept_share) - np.log(unlabelled_share)
    g = 1 / (1 + np.exp(-odds))
    c, error = float(g.mean()), float(g.std(ddof=1) / len(g) ** 0.5)
    found = concept_share * (1 - c) / (unlabelled_share * c)
    if not SMALLEST < found < 1:
        raise ValueError(
            f"priors could not be estimated: the concept's samples give {found:.3g}, which is no share of the model's; "
            "give the priors"
        )
    return found, concept_share / unlabelled_share * error / c**2
