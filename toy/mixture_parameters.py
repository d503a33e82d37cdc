"""Weights, means and covariances of a mixture: checked with a reason, and factorised."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)


def check_weights(weights: ArrayLike) -> Array:
    """(k,) probabilities, divided by their sum, or a ``ValueError`` that says what was given."""
    out = np.array(weights, dtype=np.float64)
    if out.ndim != 1 or out.size == 0:
        raise ValueError(f"weights: shape (k,) with k >= 1 is needed, given shape {out.shape}")
    if not np.all(np.isfinite(out)) or np.any(out < 0):
        raise ValueError(f"weights: probabilities >= 0 are needed, given {out.tolist()}")
    # 1e-9: what remains of decimals typed by hand or of a float32 softmax is more; that is the caller's error.
    if abs(out.sum() - 1) > 1e-9:
        raise ValueError(f"weights: a sum of 1 is needed, given {out.tolist()} with sum {out.sum():.12g}")
    return out / out.sum()


def check_means(means: ArrayLike, k: int) -> Array:
    """(k, d) finite numbers, or a ``ValueError`` that says what was given; (k,) is read as (k, 1)."""
    out = np.array(means, dtype=np.float64)
    if out.ndim == 1 and out.shape == (k,):
        out = out[:, None]
    if out.ndim != 2 or out.shape[0] != k or out.shape[1] == 0:
        raise ValueError(f"means: shape ({k}, d) is needed (or ({k},) in one dimension), given shape {out.shape}")
    if not np.all(np.isfinite(out)):
        raise ValueError("means: finite numbers are needed")
    return out


def check_covariances(covariances: ArrayLike, k: int, d: int) -> Array:
    """(k, d, d) symmetric, of variances > 0, from any form that ``GaussianMixture`` takes, or a ``ValueError``."""
    given = np.array(covariances, dtype=np.float64)
    if given.shape == ():
        given = np.full(k, float(given))
    if given.shape == (k,):
        given = given[:, None, None] * np.eye(d)
    if given.shape != (k, d, d):
        raise ValueError(f"covariances: a scalar, shape ({k},) or ({k}, {d}, {d}) is needed, given {given.shape}")
    variances = np.diagonal(given, axis1=1, axis2=2)
    if not np.all(np.isfinite(given)) or np.any(variances <= 0):
        raise ValueError(f"covariances: finite numbers and variances > 0 are needed, given variances {variances}")
    scale = np.sqrt(variances)
    # Products such as A C A^T are symmetric to a few roundings of sqrt(c_ii c_jj); 1e-12 leaves room for d = 1000.
    skew = np.abs(given - np.swapaxes(given, 1, 2)) / (scale[:, :, None] * scale[:, None, :])
    if np.any(skew > 1e-12):
        raise ValueError(f"covariances: symmetric matrices are needed, relative asymmetry is {skew.max():.3g}")
    return 0.5 * (given + np.swapaxes(given, 1, 2))


def cholesky(correlation: Array) -> Array:
    """Lower Cholesky factors; an error that names the component where a pivot is lost in rounding."""
    d = correlation.shape[1]
    if d == 1:
        return np.ones_like(correlation)
    # The backward error of Cholesky is (d+1) eps of the unit diagonal: a squared pivot below it is noise.
    noise = (d + 1) * _EPS
    try:
        together = np.asarray(np.linalg.cholesky(correlation))
        if np.diagonal(together, axis1=1, axis2=2).min() ** 2 > noise:
            return together
    except np.linalg.LinAlgError:
        pass  # which one it is, the search below says
    for k, matrix in enumerate(correlation):
        least = float(np.linalg.eigvalsh(matrix)[0])
        if least <= noise:
            raise ValueError(
                f"covariances: component {k} is not positive definite to working precision "
                f"(least eigenvalue of its correlation matrix: {least:.3g})"
            )
    raise ValueError("covariances: positive definite matrices are needed; a Cholesky pivot was lost in rounding")


def inverse_of_triangles(lower: Array) -> Array:
    """Inverse of each lower triangular matrix, by forward substitution on the identity."""
    k, d, _ = lower.shape
    if d == 1:
        return 1.0 / lower
    out = np.zeros_like(lower)
    for i in range(d):
        out[:, i, i] = 1.0
        out[:, i, :] -= np.einsum("kj,kjl->kl", lower[:, i, :i], out[:, :i, :])
        out[:, i, :] /= lower[:, i, i, None]
    return out.reshape(k, d, d)
