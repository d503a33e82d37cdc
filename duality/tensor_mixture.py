"""The dual function of signed mixtures, `ForwardKL`, on a table that lies on an accelerator."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from duality._arrays import Array
from duality.mixture_dual import MixtureDual
from duality.mixture_pulls import pulls
from duality.mixture_sums import Least, MixtureSums, Peaks
from duality.mixture_table import MixtureFacts, MixtureTable
from duality.pulls import PullSums
from duality.ratio_tables import EPS
from duality.shards import merged
from duality.slices import spread
from duality.tensor_columns import TensorColumns, joined, over
from duality.tensor_means import pull_block, pull_sums


def mixture_block(r: Array, q: Array, u: Array, log_u: Array, curved: bool) -> Array:
    """Of a block: least u, cost, mass, E_q[r log u] `(m,)`, and where curved mean and second moments of r/u."""
    weight, mass = q * log_u, q @ u
    pieces = [u.amin(), -(weight @ u), mass, r @ weight]
    if curved:
        mean = r @ q / mass
        deviation = r / u - mean[:, None]
        pieces += [mean, (deviation * (q * u)) @ deviation.T]
    return joined(*pieces)


class TensorMixtureTable(MixtureTable):
    """`MixtureTable` of a `TensorColumns`: ratios are made anew whenever they are read."""

    _columns: TensorColumns

    def q(self, part: slice) -> Array:
        return over(self._q, part).expand(len(range(*part.indices(self._log_q.size))))

    @cached_property
    def _q(self) -> Array:
        return self._columns.logs(self._log_q).exp()

    def _relation(self) -> Callable[[Array], Array]:
        top, absent = self._columns.number(self.top)[:, None], self._columns.number(self._absent)[:, None]
        return lambda rows: (rows - top).exp().masked_fill(absent, 0.0)

    def _surveyed(self, kept: np.ndarray | None) -> MixtureFacts:
        m, relate = self.top.size, self._relation()

        def block(rows: Array, part: slice) -> Array:
            r, q = relate(rows), self.q(part)
            peaks = r.argmax(1)
            information = (rows * r).masked_fill(r == 0, 0.0)
            return joined(r @ q, information @ q, r.amax(1), r[:, peaks])

        facts = MixtureFacts(m)
        for found in self._columns.sums(block):
            facts.total, facts.own = facts.total + found[:m], facts.own + found[m : 2 * m]
            facts.peaks.merge(_peaks(found[2 * m :], m))
        return merged(facts)


def _peaks(found: np.ndarray, m: int) -> Peaks:
    """From heights `(m,)`, r at them `(m, m)` by columns and, where there are, slacks `(m,)`."""
    peaks = Peaks(m)
    peaks.heights, peaks.rows = found[:m], found[m : m + m * m].reshape(m, m).T
    if found.size > m + m * m:
        peaks.slacks = found[m + m * m :]
    return peaks


class TensorMixture(MixtureDual):
    """`MixtureDual` whose table is a `TensorColumns`."""

    TABLE = TensorMixtureTable
    _columns: TensorColumns
    _ratio: TensorColumns

    def _slacks(self, part: slice) -> Array:
        return self._columns.number(np.ones(1)) if self._slack is None else self._slack[part]

    def _least(self, x: np.ndarray) -> Least:
        at = self._columns.number(x)

        def block(r: Array, part: slice) -> Array:
            slack = self._slacks(part).expand(r.shape[1])
            u = slack - at @ r
            node = u.argmin().reshape(1)
            return joined(u.gather(0, node), slack.gather(0, node), r[:, node])

        least = Least(self.m)
        for found in self._ratio.sums(block):
            other = Least(self.m)
            other.value, other.slack, other.row = float(found[0]), float(found[1]), found[2:]
            least.merge(other)
        return merged(least)

    def _slack_at(self, x: np.ndarray) -> Array:
        at = self._columns.number(x)
        return self._ratio.made(lambda r, part: self._slacks(part) - at @ r)

    def _peaked(self) -> Peaks:
        def block(r: Array, part: slice) -> Array:
            nodes = r.argmax(1)
            return joined(r.amax(1), r[:, nodes], self._slacks(part).expand(r.shape[1])[nodes])

        peaks = Peaks(self.m)
        for found in self._ratio.sums(block):
            peaks.merge(_peaks(found, self.m))
        return merged(peaks)

    def _reach(self, both: np.ndarray, scale: np.ndarray) -> Least:
        at, sizes = self._columns.number(both), self._columns.number(scale)

        def block(r: Array, part: slice) -> Array:
            here, fall = at @ r
            room = self._slacks(part) - here
            far = (fall > 0.9 * room) & (self._qs(part) * (r.abs() * sizes[:, None]).amax(0) > EPS)
            return (room / fall).masked_fill(~far, np.inf).amin().reshape(1)

        least = Least(self.m)
        least.value = float(self._ratio.sums(block).min())
        return merged(least)

    def _sums(self, x: np.ndarray, curved: bool) -> MixtureSums:
        m, at = self.m, self._columns.number(x)

        def block(r: Array, part: slice) -> Array:
            u, log_u = self._u(part, at @ r)
            return mixture_block(r, self._qs(part), u, log_u, curved)

        sums = MixtureSums(m, curved)
        for found in self._ratio.sums(block):
            other = MixtureSums(m, curved)
            other.least, other.cost, other.mass = (float(each) for each in found[:3])
            other.logs = found[3 : 3 + m]
            if curved:
                other.moments.add(other.mass, found[3 + m : 3 + 2 * m], found[3 + 2 * m :].reshape(m, m))
            sums.merge(other)
        return merged(sums)

    def _u(self, part: slice, fall: Array) -> tuple[Array, Array]:
        """`_logs`: u and log u `(k,)`."""
        u = self._slacks(part) - fall
        return u, (-fall).log1p() if self._slack is None else u.log()

    def log_masses(self, x: np.ndarray) -> np.ndarray:
        at, logs = self._columns.number(x), self._columns.logs(self._log_q)
        log_z = float(np.log(self._sums(x, False).mass))
        found = self._ratio.made(lambda r, part: self._u(part, at @ r)[1] + over(logs, part) - log_z)
        return spread(np.asarray(found.cpu().numpy()), self._kept, self._n)

    def pull_sums(self, x: np.ndarray) -> PullSums:
        """`pulls` added up."""
        sums, scale, number = self._sums(x, False), np.exp(self._top), self._columns.number
        informed, lam, at, sizes = self._self - sums.logs * scale, self.to_natural(x), number(x), number(scale)
        vectors, shrink = [number(each) for each in (self._total, self._self, informed, lam)], number(self._shrink)

        def block(rows: Array, part: slice) -> Array:
            r = self._ratio.function(rows)  # type: ignore[misc]
            u, log_u = self._u(part, at @ r)
            mass = self._qs(part) * self._size * (r * sizes[:, None])
            pull, conditions = pulls(mass, rows, u, log_u, (sums.mass, *vectors[:3], sums.cost, vectors[3]))
            return pull_block(pull, conditions * shrink[:, None])

        return pull_sums(self._columns.sums(block), self.m)
