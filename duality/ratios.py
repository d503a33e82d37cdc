"""What is known of the pretrained and the unlearning densities: log ratios at points of q, and their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import numpy as np

from duality._arrays import frozen, precision
from duality.groups import Partition, check_groups
from duality.mass_sums import log_means, log_means_within, log_powers
from duality.once import once
from duality.ratio_changes import changed, remembering, select, shared, some, weighed
from duality.ratio_tables import EPS as EPS
from duality.ratio_tables import check_entries, finite_table, normalised_weights, ratio_table, stored_table
from duality.ratio_tables import check_priors as check_priors
from duality.shards import Shards, sharing
from duality.tensor_columns import Columns, columns_of, placed, stays

Kept = TypeVar("Kept")


class LogRatios:
    """rho_ji = log q_i(x_j) - log q(x_j) at points x_1 … x_n, with E_q[f] ≈ sum_j exp(log_weights_j) f(x_j).

    Everything that the solver needs to know of q and of q_1 … q_m; a grid, a quadrature rule, or draws of q (from
    a toy or from a network) are the same input.

    Where `ReverseKL` or `ForwardKL` are solved with ratios whose masses E_q[e^{rho_i}] are not one, so that no law has
    them, a `MassWarning` says so (`duality.masses` has the rule); `normalise` returns ratios of mass one.

    Args:
        values: rho `(n, m)` in nats, points by constraints; `(n,)` is read as `(n, 1)`. -inf is ordinary (q_i
            vanishes where q does not); NaN and +inf are not (q must charge what q_i charges), and neither is a column
            that is -inf wherever q has weight. Single precision is kept and widened block by block, half precision at
            once; a `numpy.memmap` of either precision is neither copied nor read as a whole (mind that it does not
            change): `ReverseKL`, `ForwardKL` and `Likelihood` then need memory for vectors of length n only. A tensor
            on a GPU is copied and solved there by these three, without groups and detectors (how-to/gpu-and-memory).
        log_weights: `(n,)` logs of quadrature weights under q, summing to one; -inf for a node without weight.
            Left out, the points are *draws* of q with equal weights, and answers carry standard errors.
        log_densities: `(n, m)` log q_i(x_j), needed only by `Likelihood(kind="density")`.
        priors: `(m,)` Pr(concept i) under q, each inside (0, 1); used by `Likelihood(kind="posterior")` where the
            problem does not bring its own.
        groups: `(n,)` whole numbers 0 … C - 1: which prompt, or group of prompts, a point belongs to. Weights are then
            normalised within each group, rho is `log q_{i,c}/q_c`, and every density sought has a law for each group.
        group_weights: P `(C,)`, how often each group is asked for, adding up to one. Left out, what the points of each
            group weigh together; groups of draws then count as a sample of groups themselves, and standard errors
            take that into account.
        detectors: `(n, k)` what k detectors say at the points, in [0, 1] or any finite numbers: what
            `Likelihood(kind="detector")` and `Keep` constrain, by definition. With them, values may be left out.

    Raises:
        ValueError: naming the argument, what was given and what is needed.

    Source: the log ratio seen from q is all that the three problems of arXiv:2605.30825 depend on (docs/theory).
    """

    shards: ClassVar[Shards | None] = None  # see `shared`
    stored: Any  # rho as it is kept: in double or single precision, mapped from a file, or a tensor on a device
    log_weights: np.ndarray
    log_densities: np.ndarray | None
    priors: np.ndarray | None
    is_draws: bool
    precision: float  # eps of the type that the values came in: what their last digits are worth
    groups: np.ndarray | None
    group_weights: np.ndarray | None
    groups_sampled: bool  # whether the groups are a sample of groups, and not all that there are
    detectors: np.ndarray | None
    constraint_shares: np.ndarray | None  # a (C, m), where constraints weigh groups by shares of their own

    def __init__(
        self,
        values: Any = None,
        log_weights: Any = None,
        log_densities: Any = None,
        priors: Any = None,
        groups: Any = None,
        group_weights: Any = None,
        detectors: Any = None,
    ) -> None:
        eps = precision(values)
        if detectors is not None:
            detectors = finite_table("detectors", detectors)
        if values is None:
            if detectors is None:
                raise ValueError("values: neither log ratios nor detectors are given")
            values = np.empty((len(detectors), 0))
        else:
            there = groups is None and detectors is None and stays(values)
            stored = placed("values", values) if there else stored_table("values", values)
            values = ratio_table("values", values) if stored is None else stored
            if stored is not None:
                check_entries("values", stored, columns_of(stored).ends()[1])
        n, m = values.shape
        if detectors is not None and len(detectors) != n:
            raise ValueError(f"detectors: {len(detectors)} points given, but values has {n}")
        if groups is None and group_weights is not None:
            raise ValueError("group_weights: given, but no groups; say which group each point belongs to")
        if log_weights is None:
            weights = np.full(n, -np.log(n)) if type(values) is np.ndarray else np.broadcast_to(-np.log(n), n)
        else:  # with group_weights only ratios within a group count
            weights = normalised_weights(log_weights, n, exact=group_weights is None)
        sampled = groups is not None and group_weights is None
        if groups is not None:
            groups, group_weights, weights = check_groups(groups, group_weights, weights)
        kept = np.isfinite(weights)
        ends = columns_of(values).ends(None if kept.all() else kept)
        absent = ends[1] == -np.inf
        if absent.any():
            raise ValueError(
                f"values: constraint {int(np.argmax(absent))} is -inf at every point that has weight, so that nothing"
                " of its q_i is to be seen where q is; leave its column out, or bring points of q that show it"
            )
        if log_densities is not None:
            log_densities = ratio_table("log_densities", log_densities)
            if log_densities.shape != (n, m):
                raise ValueError(
                    f"log_densities: shape {log_densities.shape} given, but values has shape {(n, m)}; both are (n, m)"
                )
        if priors is not None:
            priors = check_priors(priors, m)
        for name, value in (
            ("stored", frozen(values)),
            ("log_weights", frozen(weights)),
            ("log_densities", None if log_densities is None else frozen(log_densities)),
            ("priors", priors),
            ("is_draws", log_weights is None),
            ("precision", eps),
            ("groups", groups),
            ("group_weights", group_weights),
            ("groups_sampled", sampled),
            ("detectors", None if detectors is None else frozen(detectors)),
            ("constraint_shares", None),
            ("ends", ends),
        ):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"LogRatios is frozen: {name} cannot be set")

    @property
    def values(self) -> np.ndarray:
        """rho `(n, m)` in double precision, as it is kept or a copy each time."""
        return self.stored if self.table.direct else frozen(self.table.whole())

    @property
    def table(self) -> Columns:
        return columns_of(self.stored)  # rho, to be read block by block

    @property
    def n(self) -> int:
        """Number of points."""
        return int(self.stored.shape[0])

    @property
    def m(self) -> int:
        """Number of constraints."""
        return int(self.stored.shape[1])

    def columns(self, source: str) -> int:
        """How many columns of "values" or of "detectors" there are."""
        if source == "values":
            return self.m
        return 0 if self.detectors is None else int(self.detectors.shape[1])

    def select(self, source: str, chosen: np.ndarray) -> LogRatios:
        """The same points with some columns of "values" (and of what belongs to them), or of "detectors", alone."""
        return select(self, source, chosen)

    def some(self, places: np.ndarray) -> LogRatios:
        """The points at `places` (increasing), with their weights made to add up to one; without groups."""
        return some(self, places)

    def remembering(self) -> LogRatios:
        """The same points; what problems compute of them is kept for as long as this view is."""
        return remembering(self)

    def recall(self, key: Any, compute: Callable[[], Kept]) -> Kept:
        """What `compute` makes, from memory where there is one that has it."""
        memory = self.__dict__.get("memory")
        if memory is None:
            return compute()
        return memory[key] if key in memory else memory.setdefault(key, compute())  # type: ignore[no-any-return]

    def shared(self, shards: Shards, share: float | None = None) -> LogRatios:
        """These points as this process's part of many: `solve` of them is then of the points of all processes.

        Args:
            shards: the processes, each of which calls this, and `solve`.
            share: the part of q's mass at these points, (0, 1], where they are quadrature nodes; the shares of all
                processes add up to one. Left out, the part of all points that these are.

        Raises:
            ValueError: for a share that is none, or shares that do not add up to one, and with groups.
        """
        return shared(self, shards, share)

    @once
    def log_powers(self) -> tuple[np.ndarray, np.ndarray]:
        """Logs of sum_j e^{rho_ji} and sum_j e^{2 rho_ji} `(m,)`."""
        with sharing(self.shards):
            return log_powers(self.table)

    @once
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest rho_i `(m,)` on the points that have weight."""
        kept = np.isfinite(self.log_weights)
        with sharing(self.shards):
            return self.table.ends(None if kept.all() else kept)

    @once
    def peak(self) -> float:
        """The greatest entry of all, on whatever point."""
        with sharing(self.shards):
            return float(self.table.ends()[1].max())

    @once
    def partition(self) -> Partition:
        """The points of positive weight by group; one group where there are none."""
        return Partition.of(self.log_weights, self.groups, self.group_weights)

    @property
    def grouped(self) -> bool:
        """Whether there is more than one group, each with a normaliser of its own."""
        return self.group_weights is not None and self.group_weights.size > 1

    def mean_within(self, masses: np.ndarray, values: np.ndarray) -> np.ndarray:
        """sum_j masses_j values_ji / sum_j masses_j over the group of each point, `(n,)` and `(n, m)` -> `(n, m)`."""
        if not self.grouped:
            return np.broadcast_to(masses @ values / masses.sum(), values.shape)
        return self.by_group(masses[:, None] * values)[self.groups] / self.by_group(masses[:, None])[self.groups]

    def by_group(self, terms: np.ndarray) -> np.ndarray:
        """Sums over the points of each group, `(n, m)` -> `(C, m)`."""
        if self.groups is None or self.group_weights is None:
            return np.asarray(terms.sum(axis=0, keepdims=True))
        sums = [np.bincount(self.groups, weights=column, minlength=self.group_weights.size) for column in terms.T]
        return np.stack(sums, axis=1)

    @once
    def log_masses(self) -> np.ndarray:
        """log E_q[e^{rho_i}] `(m,)`, nats; finite for ratios of any size."""
        with sharing(self.shards):
            return log_means(self.table, self.log_weights)

    @once
    def masses(self) -> np.ndarray:
        """E_q[e^{rho_i}] `(m,)`, 1 for exact ratios, so its distance from 1 measures quadrature or network error."""
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(self.log_masses))

    @once
    def group_log_masses(self) -> np.ndarray:
        """`log E_{q_c}[e^{rho_i}]` in each group `(C, m)`, -inf where q_i vanishes in it; by default all is one."""
        if self.partition.count == 1:
            return self.log_masses[None]
        return log_means_within(self.stored, self.log_weights, self.partition)

    def normalise(self) -> LogRatios:
        """The same with `rho_i - log E_{q_c}[e^{rho_i}]` in the place of rho_i, group by group, and so for log q_i.

        For ratios that are known up to a factor (one for each prompt), or that a network gets right but for one. A mass
        that is missing because part of q_i lies beyond the points is not brought back by this: q_i is then restricted
        to the points. Where q_i vanishes in a group nothing is changed.
        """
        return changed(self, -np.where(np.isfinite(self.group_log_masses), self.group_log_masses, 0.0))

    def weighed(self, shares: Any) -> LogRatios:
        """For constraints that weigh groups by shares a_i(c) of their own: rho_i + log(a_i(c)/P(c)).

        `Likelihood` of posteriors then bounds `sum_c a_i(c) E_{p_c}[Pr(i|x)]`, and `ForwardKL` asks for
        `sum_c a_i(c) KL(q_{i,c}‖p_c) ≥ b_i - KL(a_i‖P)`. `ReverseKL` refuses: its tilt would not be one for all groups.
        Detectors are whatever they are: multiply them by a(c)/P(c) yourself.

        Args:
            shares: a `(C,)` for all constraints or `(C, m)`, ≥ 0, adding up to one over the groups.

        Raises:
            ValueError: without groups, for shares that are none, or where ratios are weighed already.
        """
        return weighed(self, shares)

    @once
    def spreads(self) -> np.ndarray:
        """Standard deviations of rho_i under q `(m,)`, nats; NaN where a ratio is not finite."""
        if not (np.isfinite(self.values).all() and np.isfinite(self.log_weights).all()):
            return np.full(self.m, np.nan)
        q = np.exp(self.log_weights)
        return np.asarray(np.sqrt(q @ (self.values - q @ self.values) ** 2))

    def __repr__(self) -> str:
        kind = "draws" if self.is_draws else "quadrature nodes"
        seen = [f"{self.m} constraint{'s' if self.m > 1 else ''}"] if self.m else []
        if self.detectors is not None:
            count = self.detectors.shape[1]
            seen.append(f"{count} detector{'s' if count > 1 else ''}")
        if self.group_weights is not None:
            seen.append(f"{self.group_weights.size} group{'s' if self.group_weights.size > 1 else ''}")
        return f"LogRatios({self.n} {kind}, {', '.join(seen)})"
