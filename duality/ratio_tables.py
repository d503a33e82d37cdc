"""Tables of log ratios and detectors, and weights, as they are given: checked, and brought into double precision."""

from __future__ import annotations

from typing import Any

import numpy as np

from duality._arrays import Array, frozen, to_numpy, vector

EPS = float(np.finfo(np.float64).eps)


def stored_table(name: str, values: Any) -> np.ndarray | None:
    """A table `(n, m)` to be kept as it is given: in single precision (copied), or mapped from a file (not copied).

    None for any other, which `ratio_table` is for. Entries are not looked at.
    """
    if hasattr(values, "detach") and str(values.dtype) == "torch.float32":
        values = values.detach().cpu().numpy()
    mapped = isinstance(values, np.memmap) and values.dtype in (np.float32, np.float64)
    if not mapped and not (type(values) is np.ndarray and values.dtype == np.float32):
        return None
    table = values[:, None] if values.ndim == 1 else values
    check_shape(name, table)
    if not mapped:
        return np.array(table, order="F")
    view = table.view()
    view.flags.writeable = False
    return np.asanyarray(view)


def check_shape(name: str, table: Array) -> None:
    """ValueError for what is no table of points by constraints."""
    if table.ndim != 2:
        raise ValueError(f"{name}: shape (n, m) = points by constraints is needed, got shape {table.shape}")
    if 0 in table.shape:
        raise ValueError(f"{name}: empty, shape {table.shape}; at least one point and one constraint are needed")


def check_entries(name: str, table: Array, greatest: np.ndarray) -> None:
    """ValueError for NaN and +inf in a table `(n, m)`; greatest entries `(m,)`, NaN where there is one."""
    for i in np.flatnonzero(~(greatest < np.inf)):
        column = to_numpy(name, table[:, i])
        j = int((~(column < np.inf)).argmax())
        raise ValueError(
            f"{name}: {column[j]} at point {j}, constraint {i}; finite numbers or -inf are needed"
            " (+inf would mean that q_i lives where q does not)"
        )


def ratio_table(name: str, values: Any) -> np.ndarray:
    """A float64 array (n, m) without NaN and +inf."""
    table = to_numpy(name, values)
    if table.ndim == 1:
        table = table[:, None]
    check_shape(name, table)
    if not (table < np.inf).all():  # one pass catches both NaN and +inf
        j, i = (int(k) for k in np.argwhere(~(table < np.inf))[0])
        raise ValueError(
            f"{name}: {table[j, i]} at point {j}, constraint {i}; finite numbers or -inf are needed"
            " (+inf would mean that q_i lives where q does not)"
        )
    # Column by column in memory: sums, maxima and products over the points are several times as fast.
    return np.asfortranarray(table)


def finite_table(name: str, values: Any) -> np.ndarray:
    """A float64 array (n, k) of finite numbers, column by column in memory; `(n,)` is read as `(n, 1)`."""
    table = ratio_table(name, values)
    if not np.isfinite(table).all():
        j, i = (int(k) for k in np.argwhere(~np.isfinite(table))[0])
        raise ValueError(f"{name}: {table[j, i]} at point {j}, column {i}; finite numbers are needed")
    return table


def normalised_weights(log_weights: Any, n: int, exact: bool = True) -> np.ndarray:
    """Log weights `(n,)` that sum to one; ValueError for what is none, or where exact for another sum."""
    weights = to_numpy("log_weights", log_weights)
    if weights.shape != (n,):
        raise ValueError(f"log_weights: shape {weights.shape} given, but there are {n} points; (n,) is needed")
    if not (weights < np.inf).all():
        j = int(np.argmin(weights < np.inf))
        raise ValueError(f"log_weights: {weights[j]} at point {j}; finite numbers or -inf are needed")
    top = float(weights.max())
    if top == -np.inf:
        raise ValueError("log_weights: all are -inf, so q has no mass; at least one finite weight is needed")
    total = top + float(np.log(np.exp(weights - top).sum()))
    # A sum of n doubles is off by at most n eps (Higham 2002, §4.2), and a stored log weight l makes its weight off by
    # a relative eps |l|. Weights that were normalised in double precision therefore stay within eps (n + |l|) of
    # one, |l| averaged under the weights themselves and so at most log n + |top|. What was subtracted to normalise them
    # had its own rounding, for densities within the range of a double at most 745 nats of it; the factor 8 is slack
    # for a normalisation that was done in several steps.
    tolerance = 8 * EPS * (n + np.log(n) + abs(top) + 745)
    if exact and abs(total) > tolerance:
        raise ValueError(
            f"log_weights: they sum to exp({total:.6g}), not to one (tolerance {tolerance:.1e});"
            " subtract scipy.special.logsumexp(log_weights)"
        )
    return weights - total


def check_priors(priors: Any, m: int | None = None) -> np.ndarray:
    """Priors as a frozen vector inside (0, 1), of length m where m is known; a number serves every constraint."""
    checked = vector("priors", priors)
    outside = ~((checked > 0) & (checked < 1))
    if outside.any():
        raise ValueError(f"priors: {checked[outside][0]} given, but a prior lies strictly inside (0, 1)")
    if m is not None and checked.size != m:
        if checked.size != 1:
            raise ValueError(f"priors: {checked.size} given for {m} constraints; give one, or one for each")
        checked = frozen(np.repeat(checked, m))
    return checked
