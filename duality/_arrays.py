"""Small numerical helpers that read the same for NumPy and torch.

Everything here lives in log space. The functions that take an `xp` follow the array API, so that one text serves
NumPy arrays and torch tensors on any device, and automatic differentiation passes through them.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_array_api_obj

Array = Any  # a NumPy array or a torch tensor; the array API has no common base class to name

LOG_HALF = float(np.log(0.5))


def to_numpy(name: str, values: Array) -> np.ndarray:
    """`values` as a float64 NumPy array, wherever it lives; ValueError where it is no array of real numbers.

    Half-precision tensors (bfloat16 has no counterpart in NumPy) are widened. Text is no number, whatever `float`
    would make of it: "１" and "1_0" are refused, and so are whole numbers beyond the range of a double.
    """
    given = type(values).__name__
    if hasattr(values, "detach"):  # a torch tensor, perhaps on an accelerator and part of a graph
        values = values.detach()
        if values.is_complex():
            raise ValueError(f"{name}: an array of real numbers is needed, got {given} (complex numbers)")
        values = values.cpu().double().numpy()
    try:
        if np.ma.is_masked(values):
            raise TypeError("masked entries")
        array = np.asarray(values)
        if array.dtype.kind == "O":  # whole numbers too long for 64 bits, or a mixture of types
            for entry in array.flat:
                if not isinstance(entry, (int, float, np.number, np.bool_)):
                    raise TypeError(f"{type(entry).__name__} among its entries")
        elif array.dtype.kind not in "biuf":
            raise TypeError(_KINDS.get(array.dtype.kind, str(array.dtype)))
        with np.errstate(over="raise"):  # a wider float (128 bits on some machines) that no double can hold
            return array.astype(np.float64)
    except (TypeError, ValueError, OverflowError, FloatingPointError) as error:
        raise ValueError(f"{name}: an array of real numbers is needed, got {given} ({error})") from None


_KINDS = {"c": "complex numbers", "U": "text", "S": "bytes", "M": "dates", "m": "durations", "V": "records"}


def precision(values: Array) -> float:
    """The spacing of numbers near 1 in the precision that `values` come in: eps of their type, of double for others."""
    kind = str(getattr(values, "dtype", "float64")).removeprefix("torch.")
    return {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-23}.get(kind, float(np.finfo(np.float64).eps))


def stack_level() -> int:
    """The `stacklevel` at which a warning names the first line outside this package: the caller's own."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "duality":
        level, frame = level + 1, frame.f_back
    return level


def frozen(array: np.ndarray) -> np.ndarray:
    """The same array, no longer writable: the nouns of this package do not change under their owner.

    A tensor, which cannot be closed like that, as it is.
    """
    if isinstance(array, np.ndarray):
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
        return xp.astype(parameters.to(values.device) if hasattr(parameters, "detach") else parameters, values.dtype)
    return xp.asarray(to_numpy("multipliers", parameters), dtype=values.dtype, device=device(values))


def widened(parameters: Array) -> Array:
    """`parameters` in double precision; a tensor stays in its graph, but where its device may not stay on it.

    Accelerators without doubles exist (Apple's), and parameters are a handful of numbers: they are computed on the CPU.
    """
    if hasattr(parameters, "detach"):
        return parameters.cpu().double()
    return np.asarray(parameters, dtype=np.float64)


def computed(values: Array) -> Array:
    """`values` in a type to compute in: halves in single precision (too coarse to exponentiate), integers in double."""
    xp = array_namespace(values)
    if not xp.isdtype(values.dtype, "real floating"):
        return xp.astype(values, xp.float64)
    return xp.astype(values, xp.float32) if precision(values) > 1e-6 else values


def narrowed(result: Array, like: Array) -> Array:
    """`result` in the precision of `like` where that is a half, and finite where it was (float16 ends at 65504)."""
    xp = array_namespace(result)
    if precision(like) < 1e-6:
        return result
    end = float(xp.finfo(like.dtype).max)
    return xp.astype(xp.where(xp.isfinite(result), xp.clip(result, -end, end), result), like.dtype)


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
    (Mächler, "Accurately computing `log(1 - exp(-|a|))`", 2012).
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
