"""Log ratios with a constant added in each group (masses mended, shares of a constraint's own), and views on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from duality._arrays import Array, frozen, logsumexp, to_numpy
from duality.shards import Shards, sharing, total
from duality.tensor_columns import TensorColumns

if TYPE_CHECKING:
    from duality.ratios import LogRatios


#: What is computed of the tables, and not to be taken over by a view on other ones.
DERIVED = ("log_masses", "masses", "spreads", "group_log_masses", "ends", "peak", "log_powers", "memory")


def _view(ratios: LogRatios, without: tuple[str, ...]) -> LogRatios:
    """The same, but for what is named."""
    view = object.__new__(type(ratios))
    view.__dict__.update({name: value for name, value in ratios.__dict__.items() if name not in without})
    return view


def select(ratios: LogRatios, source: str, chosen: np.ndarray) -> LogRatios:
    """See `LogRatios.select`."""
    view = _view(ratios, DERIVED)
    own: dict[str, np.ndarray | None] = {"detectors": None}
    if source == "detectors":
        assert ratios.detectors is not None
        own = {"stored": ratios.stored[:, :0], "log_densities": None, "priors": None}
        own["detectors"] = np.asfortranarray(ratios.detectors[:, chosen])
    else:
        own["stored"] = np.asfortranarray(_in_memory(ratios)[:, chosen])
        if ratios.constraint_shares is not None:
            own["constraint_shares"] = ratios.constraint_shares[:, chosen]
        own["log_densities"] = None if ratios.log_densities is None else ratios.log_densities[:, chosen]
        own["priors"] = None if ratios.priors is None else ratios.priors[chosen]
    view.__dict__.update({name: None if value is None else frozen(value) for name, value in own.items()})
    return view


def some(ratios: LogRatios, places: np.ndarray) -> LogRatios:
    """See `LogRatios.some`."""
    view = _view(ratios, (*DERIVED, "partition"))
    for name in ("stored", "log_densities", "detectors"):
        table = _in_memory(ratios) if name == "stored" else getattr(ratios, name)
        view.__dict__[name] = None if table is None else frozen(np.array(table[places], order="F"))
    weights = ratios.log_weights[places]
    view.__dict__["log_weights"] = frozen(weights - logsumexp(np, weights))
    return view


def shared(ratios: LogRatios, shards: Shards, share: float | None) -> LogRatios:
    """See `LogRatios.shared`."""
    if ratios.group_weights is not None or ratios.detectors is not None:
        raise ValueError("shards: points in groups, or with detectors, cannot be shared out; solve them in one process")
    with sharing(shards):
        points = total(ratios.n)
        part = ratios.n / points if share is None else float(share)
        # On every process alike, so that none waits for one that has gone.
        whole, least = total(part), -total(float(not part > 0))
    if least < 0 or abs(whole - 1.0) > 1e-12:
        raise ValueError(
            f"share: {share} given, and {whole:.17g} by all processes; shares > 0 that add up to 1 are needed"
        )
    view = _view(ratios, (*DERIVED, "partition"))
    view.__dict__["shards"] = shards
    view.__dict__["log_weights"] = frozen(ratios.log_weights + np.log(part))
    return view


def remembering(ratios: LogRatios) -> LogRatios:
    """See `LogRatios.remembering`."""
    view = _view(ratios, ("memory",))
    view.__dict__["memory"] = {}
    return view


def _in_memory(ratios: LogRatios) -> np.ndarray:
    """rho as it is kept, or a copy where that is on an accelerator."""
    return ratios.stored if isinstance(ratios.stored, np.ndarray) else ratios.values


def _moved(ratios: LogRatios, change: np.ndarray, at_points: np.ndarray) -> Array:
    """rho + change in double precision, wherever rho is."""
    table = ratios.table
    if isinstance(table, TensorColumns):  # without groups
        return ratios.stored.double() + table.number(change[0])
    return np.asfortranarray(ratios.values + at_points)


def changed(ratios: LogRatios, change: np.ndarray) -> LogRatios:
    """rho_i + change_ci in group c, and log q_i likewise; all else as it is. change: `(C, m)`."""
    at_points = change[np.zeros(ratios.n, dtype=np.intp) if ratios.groups is None else ratios.groups]
    again = _view(ratios, DERIVED)
    again.__dict__["stored"] = frozen(_moved(ratios, change, at_points))
    if ratios.log_densities is not None:
        again.__dict__["log_densities"] = frozen(np.asfortranarray(ratios.log_densities + at_points))
    return again


def weighed(ratios: LogRatios, shares: Any) -> LogRatios:
    """See `LogRatios.weighed`."""
    if ratios.group_weights is None:
        raise ValueError("groups: none are given, so there is nothing that shares could weigh")
    if ratios.constraint_shares is not None:
        raise ValueError("shares: these ratios are weighed already; weigh those that they were made of")
    given = to_numpy("shares", shares)
    count = ratios.group_weights.size
    if given.ndim == 1:
        given = given[:, None]
    if given.shape not in ((count, 1), (count, ratios.m)) or ratios.m == 0:
        raise ValueError(f"shares: shape {np.shape(shares)} given, ({count},) or ({count}, {ratios.m}) is needed")
    # As for group_weights: shares that were divided by their sum in double precision add up to one within this.
    if not (given >= 0).all() or (np.abs(given.sum(axis=0) - 1) > 8 * np.finfo(float).eps * (count + 1)).any():
        raise ValueError(f"shares: numbers ≥ 0 that add up to one over the groups are needed, given {shares!r}")
    given = np.broadcast_to(given, (count, ratios.m))
    with np.errstate(divide="ignore"):
        again = changed(ratios, np.log(given) - np.log(ratios.group_weights)[:, None])
    again.__dict__["constraint_shares"] = frozen(np.array(given))
    return again
