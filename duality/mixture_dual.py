"""The dual function of signed mixtures, `ForwardKL`, in coordinates to climb in."""

from __future__ import annotations

from copy import copy
from math import log, sqrt
from typing import ClassVar

import numpy as np

from duality.columns import Columns
from duality.dual_protocol import Dual, Evaluation, rounding
from duality.mixture_nodes import MixtureNodes
from duality.mixture_passes import mixture_pass
from duality.mixture_pulls import mixture_pulls
from duality.mixture_sums import Least, MixtureSums, Peaks
from duality.mixture_table import MixtureTable
from duality.passes import longest, parts, run, weighed
from duality.pulls import Pulls
from duality.ratio_tables import EPS
from duality.shards import total
from duality.slices import slices, spread


class MixtureDual(MixtureNodes):
    """-E_q[u log u] + Z log Z + sum_i lam_i (b_i - E_q[e^{rho_i} rho_i]), with u = 1 - sum_i lam_i e^{rho_i}.

    u is the unnormalised density of the target against q and Z = E_q[u]. The domain is the polyhedron u ≥ 0 at every
    node of positive weight, and g is finite and continuous up to its boundary, because u log u -> 0. Only the
    *levels* run off there, as -log u: that is how a level beyond the critical one shows.

    **Attained or not.** On finitely many nodes the level can always be had, by driving u to e^{-missing/mass} at the
    one node (or few) that define the face: an artefact, since on the continuum that node is a set whose mass tends to
    zero as the nodes are refined. The ratios are known to a relative `eps (1 + |rho|)`, so u cannot be told from zero
    below about eps max(1, rho). The climb therefore stays in u ≥ RESOLUTION · max(1, max rho): where the optimum of
    that slightly smaller polyhedron presses against a face, the level is one that no density attains as far as
    these nodes can tell, and g there is the value to within RESOLUTION · log(1/RESOLUTION). This rule depends on
    neither the number of nodes nor how they are split. It errs for a face of large mass (disjoint supports) only at
    levels beyond log(1/RESOLUTION), about 33 nats, where lam itself has no digits left to say by how much it
    misses the face. And it cannot see a face that the nodes do not reach: with few draws the target may rest on the
    one with the largest ratio, which is what the warning on few draws is for.

    The climb is in x_i = lam_i e^{max_j rho_ji} - base_i, so that the polyhedron fits the unit box. The base is zero at
    first. Near a face, where u is much smaller than 1, doubles near 1 are too far apart to set u to a relative eps;
    `refined` then moves the base to where the climb arrived, so that x becomes a small correction with all its digits.

    Each evaluation is one pass over blocks of r_i = e^{rho_i - max rho_i}, which are kept, or, where the ratios are not
    in memory in double precision, made anew in every pass.

    Args:
        values: rho `(n, m)`.
        log_weights: `(n,)`, adding up to one.
        levels: b `(m,)`.
        top: max rho `(m,)` on the nodes that have weight, where it is known.
    """

    RESOLUTION: ClassVar[float] = 16 * EPS
    ROOM: ClassVar[float] = 0.05
    grain = 1.0  # how much coarser the numbers are than doubles
    TABLE: ClassVar[type[MixtureTable]] = MixtureTable

    def __init__(
        self,
        values: np.ndarray | Columns,
        log_weights: np.ndarray,
        levels: np.ndarray,
        top: np.ndarray | None = None,
    ) -> None:
        self._n = log_weights.size
        self._kept: np.ndarray | None = None
        columns = values if isinstance(values, Columns) else Columns(np.asfortranarray(values))
        if not np.isfinite(log_weights.min()):
            self._kept = np.isfinite(log_weights)
            columns, log_weights = columns.at(self._kept), log_weights[self._kept]
        known = self.TABLE(columns, log_weights, top)
        self.m, self._columns, self._ratio = columns.m, columns, known.ratio
        self._top, self._shrink, self._peaks = known.top, np.exp(-known.top), known.peaks
        self._total, self._self, self._self_terms = known.total, known.own, known.own_terms
        self._qs = known.q
        self._log_q = log_weights
        self._parts, self._slices = parts(log_weights.size, self.m), slices(log_weights.size)
        self._levels = levels
        self._sizes = np.abs(levels) + self._self_terms
        self._growth, self._widest = np.exp(self._top), self._extent()
        self._base = np.zeros(self.m)
        self._slack: np.ndarray | None = None  # u at the base, where that is not 1
        self._nearest: Least | None = None  # the node of least u there
        self._size = int(total(log_weights.size))  # of all nodes, those of other processes included
        self.lower = np.zeros(self.m)
        self.floor = self.RESOLUTION * max(1.0, float(self._top.max()))
        self.touch = self.floor / 4
        self.ceiling = np.inf
        self._latest: tuple[np.ndarray, MixtureSums] | None = None

    def _weigh(self, q: np.ndarray) -> None:
        """Other masses, where the nodes are others."""
        self._qs = lambda part: q[part]
        self._total = (self._ratio.whole().T @ q) * self._growth
        self._widest = self._extent()

    def _extent(self) -> tuple[float, float]:
        """The largest terms of the gradient, and by how much an error of all log u may move it, in terms of that."""
        return float((self._shrink * self._sizes).max()), float((self._shrink * (1.0 + np.abs(self._total))).max())

    # -- the set that the climb is on ----------------------------------------------------------------------------------

    def _slacks(self, part: slice) -> np.ndarray:
        """u at the base, at some nodes."""
        return np.ones(1, self._log_q.dtype) if self._slack is None else self._slack[part]

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        # At first one node for each constraint, its largest ratio; later also the node of least slack.
        known, nearest = self._peaks, self._nearest
        if nearest is None:
            return known.rows, np.maximum(known.slacks - self.floor, 0.0)
        slacks = np.append(known.slacks, nearest.slack)
        return np.vstack([known.rows, nearest.row]), np.maximum(slacks - self.floor, 0.0)

    def _at_least(self, x: np.ndarray) -> float:
        """A bound on min u at x, from the point that was evaluated last: there r ≤ 1 can have moved it this far."""
        if self._latest is None:
            return -np.inf
        return self._latest[1].least - float(np.maximum(x - self._latest[0], 0.0).sum())

    def cut(self, x: np.ndarray) -> tuple[np.ndarray, float] | None:
        if self._at_least(x) >= self.floor:
            return None
        found = self._least(x)
        if found.value >= self.floor / 2:
            return None
        return found.row, found.slack - self.floor

    def inwards(self, x: np.ndarray) -> np.ndarray:
        """x `(m,)`, or what is left of it on the way from the origin before u falls below `ROOM`."""
        least = self._least(x).value
        return x if least >= self.ROOM else x * ((1.0 - self.ROOM) / (1.0 - least))

    def _least(self, x: np.ndarray) -> Least:
        """The smallest u at x, and where it is."""

        def visit(blocks: list[slice]) -> Least:
            least, out = Least(self._ratio.m), np.empty((self._ratio.m, longest(blocks)))
            for part in blocks:
                r, slack = self._ratio.block(part, out), self._slacks(part)
                least.add(slack - x @ r, r, slack)
            return least

        return run(self._parts, visit)

    def refined(self, x: np.ndarray) -> Dual | None:
        if self._at_least(x) > 1e-3:  # eps / 1e-3 leaves u the twelve digits that a residual of 1e-10 needs, and more
            return None
        if self._least(x).value > 1e-3:
            return None
        finer = copy(self)
        finer._base, finer._slack = self._base + x, self._slack_at(x)
        finer.lower, finer._latest = -finer._base, None
        finer._peaks, finer._nearest = finer._peaked(), finer._least(np.zeros(self.m))
        return finer

    def _slack_at(self, x: np.ndarray) -> np.ndarray:
        """u at x, `(k,)`."""
        return self._slacks(slice(0, self._log_q.size)) - self.table @ x

    def _peaked(self) -> Peaks:
        return run(self._parts, self._tops)

    def _tops(self, blocks: list[slice]) -> Peaks:
        peaks, out = Peaks(self.m), np.empty((self.m, longest(blocks)))
        for part in blocks:
            peaks.add(self._ratio.block(part, out), self._slacks(part))
        return peaks

    def stride(self, x: np.ndarray, step: np.ndarray) -> float:
        # Quadratic models of u log u hold over a factor, not over decades: no node that matters loses more than nine
        # tenths of its u at once. Nodes of negligible mass may go to the face directly.
        least = self._at_least(x)
        if least > 0.0 and float(np.maximum(step, 0.0).sum()) <= 0.9 * least:
            return 1.0
        return min(1.0, max(0.9 * self._reach(np.stack([x, step]), self._growth).value, 1e-3))

    def _reach(self, both: np.ndarray, scale: np.ndarray) -> Least:
        """The least room over fall, u at x over what a step takes of it, among nodes that matter and hold it back."""

        def visit(blocks: list[slice]) -> Least:
            least, out = Least(self._ratio.m), np.empty((self._ratio.m, longest(blocks)))
            for part in blocks:
                r = self._ratio.block(part, out)
                here, fall = both @ r
                room = self._slacks(part) - here
                far = np.flatnonzero(fall > 0.9 * room)  # of the others none holds the step back
                far = far[self._qs(part)[far] * np.abs(r[:, far] * scale[:, None]).max(axis=0) > EPS]
                if far.size:
                    least.add(room[far] / fall[far])
            return least

        return run(self._parts, visit)

    def price(self, x: np.ndarray) -> np.ndarray:
        return 1.0 / self._shrink

    def horizon(self, x: np.ndarray, at: Evaluation) -> np.ndarray:
        return np.zeros(self.m)

    def to_natural(self, x: np.ndarray) -> np.ndarray:
        return (self._base + x) * self._shrink

    def from_natural(self, natural: np.ndarray) -> np.ndarray:
        return natural / self._shrink - self._base

    # -- the function --------------------------------------------------------------------------------------------------

    def _sums(self, x: np.ndarray, curved: bool) -> MixtureSums:
        """One pass over the nodes at x, which ends early where u is not positive."""
        return mixture_pass(self, x, curved)

    def _logs(self, part: slice, fall: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """u = slack - fall, and log u `(k,)`: at the origin by log1p, which keeps the digits of small multipliers."""
        u = self._slacks(part) - fall
        with np.errstate(invalid="ignore", divide="ignore"):  # where u ≤ 0 nobody looks at the logarithm
            return u, np.log1p(np.negative(fall, out=out), out=out) if self._slack is None else np.log(u, out=out)

    def evaluate(self, x: np.ndarray) -> Evaluation:
        return self._read(x, self._sums(x, True))

    def glance(self, x: np.ndarray) -> Evaluation:
        """As `evaluate`, with the curvature in a pass of its own if it is asked for."""
        own = type(self).evaluate is MixtureDual.evaluate
        return self._read(x, self._sums(x, False)) if own else self.evaluate(x)

    def _read(self, x: np.ndarray, sums: MixtureSums) -> Evaluation:
        if sums.least <= 0.0:
            nothing = np.zeros(self.m)
            return Evaluation(-np.inf, nothing, np.zeros((self.m, self.m)), nothing, 0.0, 0.0)
        self._latest = np.array(x), sums
        z, cost = sums.mass, sums.cost
        log_z = log(z)
        misses = self._levels - (self._self - sums.logs * self._growth + self._total * log_z)
        lam = self.to_natural(x)
        value = cost + z * log_z + float(lam @ (self._levels - self._self))
        # u ≤ 1, so the terms of the cost have one sign; those of E_q[e^rho rho] may cancel, by the size of rho.
        terms = cost + abs(z * log_z) + float(lam @ self._sizes)
        gradient = self._shrink * misses
        faint = self._faint(sums.least, self._size)
        noise = self.grain * rounding(value, terms, self._size)
        second = sums.moments.second
        bend = (lambda: np.asarray(self._sums(x, True).moments.second)) if second is None else second
        return Evaluation(value, gradient, bend, misses, float((self._base + x) @ gradient), noise, faint)

    def _faint(self, least: float, n: int) -> float:
        """By how much rounding may move an entry of the gradient, where u is at least `least`."""
        # log u is off by eps (|log u| + 1/u) unless the base keeps its digits; where it is not, this is generous.
        off = EPS * (4.0 - log(least) + 1.0 / least)
        return EPS * (16.0 + 4.0 * sqrt(n)) * self._widest[0] + off * self._widest[1]

    def hessian(self, x: np.ndarray) -> np.ndarray:
        return -self.evaluate(x).curvature / np.outer(self._shrink, self._shrink)

    def log_masses(self, x: np.ndarray) -> np.ndarray:
        latest = self._latest
        sums = latest[1] if latest is not None and np.array_equal(latest[0], x) else self._sums(x, False)
        self._ratio.release()
        log_z, log_p = float(np.log(sums.mass)), np.empty(self._log_q.size)
        out = np.empty((self.m, longest(self._parts)))
        for part in self._parts:
            _, log_u = self._logs(part, weighed(x, self._ratio.block(part, out), log_p[part]), log_p[part])
            log_u += self._log_q[part]
            log_u -= log_z
        return spread(log_p, self._kept, self._n)

    def pulls(self, x: np.ndarray) -> Pulls:
        """`influence` block by block."""
        return mixture_pulls(self, x)

    def influence(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pull, conditions = self.pulls(x)(slice(0, self._log_q.size))
        return pull, conditions.T
