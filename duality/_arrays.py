"""Small numerical helpers that read the same for NumPy and torch.

Everything here lives in log space. The functions that take an `xp` follow the array API, so that one text serves
NumPy arrays and torch tensors on any device, and automatic differentiation passes through them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_array_api_obj

Array = Any  # a NumPy array or a torch tensor; the array API has no common base class to name

LOG_HALF = float(np.log(0.5))


def to_numpy(name: str, values: Array) -> np.ndarray:
    """`values` as a float64 NumPy array, wherever it lives; ValueError where it is no array of real numbers."""
    if hasattr(values, "detach"):  # a torch tensor, perhaps on an accelerator and part of a graph
        values = values.detach().cpu().numpy()
    try:
        array = np.asarray(values)
        if np.iscomplexobj(array):
            raise TypeError("complex numbers")
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: an array of real numbers is needed, got {type(values).__name__} ({error})") from None


def frozen(array: np.ndarray) -> np.ndarray:
    """The same array, no longer writable: the nouns of this package do not change under their owner."""
    array.flags.writeable = False
    return array


def vector(name: str, values: Array) -> np.ndarray:
    """A frozen float64 vector `(m,)`; a number becomes `(1,)`. ValueError for more dimensions, emptiness or NaN."""
    array = np.atleast_1d(to_numpy(name, values))
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name}: a number or a vector (m,) is needed, got shape {array.shape}")
    if np.isnan(array).any():
        raise ValueError(f"{name}: NaN at position {int(np.argmax(np.isnan(array)))}")
    return frozen(array)


def namespace(values: Array) -> tuple[Any, Array]:
    """The array-API namespace of `values`, and `values` as one of its arrays (lists and numbers become NumPy)."""
    if not is_array_api_obj(values):
        values = np.asarray(values, dtype=np.float64)
    return array_namespace(values), values


def beside(values: Array, parameters: Array) -> Array:
    """`parameters` in the namespace, precision and device of `values`; a tensor stays in its graph."""
    xp = array_namespace(values)
    if is_array_api_obj(parameters) and array_namespace(parameters) is xp:
        return xp.astype(parameters, values.dtype)
    return xp.asarray(to_numpy("multipliers", parameters), dtype=values.dtype, device=device(values))


def safe_log(xp: Any, x: Array) -> Array:
    """log x for x >= 0 with log 0 = -inf, silently, and with a gradient of zero rather than NaN at 0."""
    positive = x > 0
    return xp.where(positive, xp.log(xp.where(positive, x, xp.ones_like(x))), xp.full_like(x, -float("inf")))


def logsumexp(xp: Any, x: Array) -> Array:
    """log sum_i exp(x_i) over the last axis; -inf entries are ordinary, and all of them -inf gives -inf."""
    top = xp.max(x, axis=-1, keepdims=True)
    top = xp.where(xp.isfinite(top), top, xp.zeros_like(top))
    return safe_log(xp, xp.sum(xp.exp(x - top), axis=-1)) + top[..., 0]


def log1mexp(xp: Any, x: Array) -> Array:
    """log(1 - e^x) for x < 0, and -inf for x >= 0.

    Above log(1/2) the difference 1 - e^x cancels, below it e^x vanishes beside 1: each half has its own formula
    (Mächler, "Accurately computing log(1 - exp(-|a|))", 2012).
    """
    below = x < 0
    x = xp.where(below, x, xp.full_like(x, -1.0))
    near = x > LOG_HALF
    middle = xp.full_like(x, LOG_HALF)
    value = xp.where(near, xp.log(-xp.expm1(xp.where(near, x, middle))), xp.log1p(-xp.exp(xp.where(near, middle, x))))
    return xp.where(below, value, xp.full_like(value, -float("inf")))


def pick(xp: Any, weights: Array, values: Array) -> Array:
    """sum_i weights_i values_i over the last axis, with 0 · (±inf) = 0: a constraint without a multiplier is absent."""
    used = weights != 0
    return xp.sum(
        xp.where(used, weights * xp.where(used, values, xp.zeros_like(values)), xp.zeros_like(values)), axis=-1
    )


def expectation(masses: np.ndarray, table: np.ndarray) -> np.ndarray:
    """sum_j masses_j table_ji with 0 · (±inf) = 0: a point without mass says nothing."""
    if np.isfinite(table).all():
        return np.asarray(masses @ table)
    return np.asarray(masses[masses > 0] @ table[masses > 0])


def divergence(log_p: np.ndarray, log_q: np.ndarray) -> float:
    """KL(p‖q) = sum_j p_j (log p_j - log q_j) from log masses `(n,)`."""
    p = np.exp(log_p)
    held = p > 0
    if held.all():
        return float(p @ (log_p - log_q))
    return float(p[held] @ (log_p[held] - log_q[held]))
