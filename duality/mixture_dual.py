"""The dual function of signed mixtures, `ForwardKL`, in coordinates to climb in."""

from __future__ import annotations

from copy import copy
from typing import ClassVar

import numpy as np

from duality.columns import Columns
from duality.dual_protocol import Dual, Evaluation, rounding
from duality.mixture_sums import Least, MixtureFacts, MixtureSums
from duality.passes import gram, longest, parts, run
from duality.ratio_tables import EPS
from duality.slices import slices, spread


class MixtureDual:
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

    def __init__(
        self,
        values: np.ndarray | Columns,
        log_weights: np.ndarray,
        levels: np.ndarray,
        top: np.ndarray | None = None,
    ) -> None:
        columns = values if isinstance(values, Columns) else Columns(np.asfortranarray(values))
        self._n = log_weights.size
        self._kept: np.ndarray | None = None
        if not np.isfinite(log_weights).all():
            self._kept = np.isfinite(log_weights)
            columns, log_weights = Columns(np.asfortranarray(columns.whole()[self._kept])), log_weights[self._kept]
        self.m = columns.m
        top = columns.ends()[1] if top is None else top
        if top.max() > 700:
            raise ValueError(
                f"values: a log ratio of {top.max():.5g} nats given, but ForwardKL works with e^rho, which overflows"
                " above 700 (E_q[e^rho] must be 1, so exact ratios stay below -min log_weights)"
            )
        # Scales are kept where e^top and e^-top are finite. A q_i that is nowhere above e^-700 is as good as absent.
        self._absent = top < -700.0
        self._top = np.where(self._absent, 0.0, top)
        self._shrink = np.exp(-self._top)
        self._columns, self._log_q = columns, log_weights
        self._levels = levels
        self._q = np.exp(log_weights) if self.m > 1 else None
        self._parts, self._slices = parts(log_weights.size, self.m), slices(log_weights.size)
        self._heavy = np.empty(log_weights.size, dtype=bool)  # nodes that carry more than rounding of some q_i
        if columns.direct:
            kept = np.empty((self.m, log_weights.size))
            facts, self._ratio = run(self._parts, lambda blocks: self._survey(blocks, kept)), Columns(kept.T)
        else:
            facts = run(self._parts, lambda blocks: self._survey(blocks, None))
            self._ratio = columns.mapped(self._relate)
        scale = np.exp(self._top)
        self._peaks = facts.peaks
        self._total, self._self, self._self_terms = facts.total * scale, facts.own * scale, facts.own_terms * scale
        self._base = np.zeros(self.m)
        self._slack: np.ndarray | None = None  # u at the base, where that is not 1
        self.lower = np.zeros(self.m)
        self.floor = self.RESOLUTION * max(1.0, float(self._top.max()))
        self.touch = self.floor / 4
        self.ceiling = np.inf
        self._latest: tuple[np.ndarray, MixtureSums] | None = None

    def _relate(self, rows: np.ndarray) -> None:
        """rho `(m, k)` to r, in place."""
        rows -= self._top[:, None]
        np.exp(rows, out=rows)
        if self._absent.any():
            rows[self._absent] = 0.0

    def _survey(self, blocks: list[slice], kept: np.ndarray | None) -> MixtureFacts:
        """Sums over some nodes, whose r go to kept `(m, n)`."""
        facts = MixtureFacts(self.m)
        out, other = np.empty((self.m, longest(blocks))), np.empty((self.m, longest(blocks)))
        scale = np.exp(self._top)
        for part in blocks:
            k = part.stop - part.start
            values, q = self._columns.block(part, other), self._qs(part)
            r = out[:, :k] if kept is None else kept[:, part]
            r[...] = values
            self._relate(r)
            heaviest = r[0] * scale[0]
            for i in range(1, self.m):
                np.maximum(heaviest, r[i] * scale[i], out=heaviest)
            self._heavy[part] = heaviest * q > EPS
            nodes = r.argmax(axis=1)
            facts.rise(nodes + part.start, r[np.arange(self.m), nodes])
            facts.total += r @ q
            # Where r vanishes so does r rho, at rho = -inf too.
            information = np.multiply(np.where(r > 0, values, 0.0), r, out=other[:, :k])
            facts.own += information @ q
            facts.own_terms += np.abs(information, out=information) @ q
        return facts

    def _qs(self, part: slice) -> np.ndarray:
        """q at some nodes `(k,)`."""
        return np.exp(self._log_q[part]) if self._q is None else self._q[part]

    @property
    def log_q(self) -> np.ndarray:
        """`(k,)`, on the k nodes that have weight."""
        return self._log_q

    @property
    def table(self) -> np.ndarray:
        """e^{rho_i - max rho_i} on these nodes, `(k, m)`, in [0, 1]."""
        return self._ratio.whole()

    @property
    def shrink(self) -> np.ndarray:
        """e^{-max rho_i} `(m,)`, multipliers per unit of x."""
        return self._shrink

    @property
    def gain(self) -> np.ndarray:
        """The part of g that is linear in x, `(m,)`."""
        return self._shrink * (self._levels - self._self)

    def misses_of(self, log_ratio: np.ndarray) -> np.ndarray:
        """b_i - KL(q_i‖p) `(m,)` for a density with log p/q `(k,)` on these nodes."""
        return np.asarray(
            self._levels - self._self + (np.exp(self._log_q) * log_ratio) @ self.table * np.exp(self._top)
        )

    def spread(self, log_p: np.ndarray) -> np.ndarray:
        """Log masses on these nodes as log masses on all `(n,)`."""
        return spread(log_p, self._kept, self._n)

    # -- the set that the climb is on ----------------------------------------------------------------------------------

    def _row(self, node: int) -> np.ndarray:
        """r `(m,)` at one node."""
        return np.array(self._ratio.block(slice(node, node + 1), np.empty((self.m, 1)))[:, 0])

    def _slacks(self, part: slice) -> np.ndarray | float:
        """u at the base, at some nodes."""
        return 1.0 if self._slack is None else self._slack[part]

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        # At first one node for each constraint, its largest ratio; later also the node of least slack.
        chosen = [int(node) for node in self._peaks]
        if self._slack is not None:
            chosen.append(int(self._slack.argmin()))
        slack = np.array([1.0 if self._slack is None else self._slack[node] for node in chosen])
        return np.array([self._row(node) for node in chosen]), np.maximum(slack - self.floor, 0.0)

    def _at_least(self, x: np.ndarray) -> float:
        """A bound on min u at x, from the point that was evaluated last: there r ≤ 1 can have moved it this far."""
        if self._latest is None:
            return -np.inf
        before, sums = self._latest
        return sums.least - float(np.maximum(x - before, 0.0).sum())

    def cut(self, x: np.ndarray) -> tuple[np.ndarray, float] | None:
        if self._at_least(x) >= self.floor:
            return None

        def visit(blocks: list[slice]) -> Least:
            least, out = Least(), np.empty((self.m, longest(blocks)))
            for part in blocks:
                least.add(self._slacks(part) - x @ self._ratio.block(part, out), part.start)
            return least

        found = run(self._parts, visit)
        if found.value >= self.floor / 2:
            return None
        return self._row(found.node), (1.0 if self._slack is None else float(self._slack[found.node])) - self.floor

    def refined(self, x: np.ndarray) -> Dual | None:
        if self._at_least(x) > 1e-3:  # eps / 1e-3 leaves u the twelve digits that a residual of 1e-10 needs, and more
            return None
        slack, out = np.empty(self._log_q.size), np.empty((self.m, longest(self._parts)))
        for part in self._parts:
            slack[part] = self._slacks(part) - x @ self._ratio.block(part, out)
        if slack.min() > 1e-3:
            return None
        finer = copy(self)
        finer._base, finer._slack, finer.lower = self._base + x, slack, -(self._base + x)
        finer._latest = None
        return finer

    def stride(self, x: np.ndarray, step: np.ndarray) -> float:
        # Quadratic models of u log u hold over a factor, not over decades: no node that matters loses more than nine
        # tenths of its u at once. Nodes of negligible mass may go to the face directly.
        least = self._at_least(x)
        if least > 0.0 and float(np.maximum(step, 0.0).sum()) <= 0.9 * least:
            return 1.0
        both = np.stack([x, step])

        def visit(blocks: list[slice]) -> Least:
            least, out = Least(), np.empty((self.m, longest(blocks)))
            for part in blocks:
                here, fall = both @ self._ratio.block(part, out)
                room = self._slacks(part) - here
                # What hardly falls has room without end.
                with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
                    ratio = np.where((fall > 0) & self._heavy[part], room / fall, np.inf)
                least.add(ratio, part.start)
            return least

        return min(1.0, max(0.9 * run(self._parts, visit).value, 1e-3))

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

        def visit(blocks: list[slice]) -> MixtureSums:
            size = longest(blocks)
            sums = MixtureSums(self.m, curved)
            falls, logs, out = np.empty(size), np.empty(size), np.empty((self.m, size))
            deviations, weighted = np.empty((2, self.m, size)) if curved else (out, out)
            for part in blocks:
                k = part.stop - part.start
                r, q = self._ratio.block(part, out), self._qs(part)
                fall = np.matmul(x, r, out=falls[:k])
                u, log_u = self._logs(part, fall, logs[:k])
                sums.least = min(sums.least, float(u.min()))
                if sums.least <= 0.0:
                    break
                weight = q * log_u
                sums.logs += r @ weight
                sums.cost -= float(weight @ u)
                mass = float(q @ u)
                sums.mass += mass
                if curved:
                    mean = r @ q / mass
                    deviation = np.divide(r, u, out=deviations[:, :k])
                    deviation -= mean[:, None]
                    sums.moments.add(mass, mean, gram(deviation, np.multiply(deviation, q * u, out=weighted[:, :k])))
            return sums

        return run(self._parts, visit)

    def _logs(self, part: slice, fall: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """u = slack - fall and log u `(k,)`; around the origin by log1p, which keeps the digits of small multipliers."""
        u = self._slacks(part) - fall
        with np.errstate(invalid="ignore", divide="ignore"):  # where u ≤ 0 nobody looks at the logarithm
            return u, np.log1p(np.negative(fall, out=out), out=out) if self._slack is None else np.log(u, out=out)

    def evaluate(self, x: np.ndarray) -> Evaluation:
        return self._read(x, self._sums(x, True))

    def glance(self, x: np.ndarray) -> Evaluation:
        """As `evaluate`, with the curvature in a pass of its own if it is asked for."""
        if type(self).evaluate is not MixtureDual.evaluate:  # a function of one's own
            return self.evaluate(x)
        return self._read(x, self._sums(x, False))

    def _read(self, x: np.ndarray, sums: MixtureSums) -> Evaluation:
        if sums.least <= 0.0:
            nothing = np.zeros(self.m)
            return Evaluation(-np.inf, nothing, np.zeros((self.m, self.m)), nothing, 0.0, 0.0)
        self._latest = np.array(x), sums
        z, cost = sums.mass, sums.cost
        log_z = float(np.log(z))
        misses = self._levels - (self._self - sums.logs * np.exp(self._top) + self._total * log_z)
        lam = self.to_natural(x)
        value = cost + z * log_z + float(lam @ (self._levels - self._self))
        # u ≤ 1, so the terms of the cost have one sign; those of E_q[e^rho rho] may cancel, by the size of rho.
        terms = cost + abs(z * log_z) + float(lam @ (np.abs(self._levels) + self._self_terms))
        gradient = self._shrink * misses
        faint = self._faint(sums.least, self._log_q.size)
        noise = rounding(value, terms, self._log_q.size)
        # sum_j q_j r_j r_jᵀ/u_j - (E_q[r] E_q[r]ᵀ)/Z is Z times the covariance of r/u under the target: centred, it
        # neither cancels nor turns indefinite where q_i and q are nearly the same.
        second = sums.moments.second
        bend = (lambda: self._curvature(x)) if second is None else second
        return Evaluation(value, gradient, bend, misses, float((self._base + x) @ gradient), noise, faint)

    def _curvature(self, x: np.ndarray) -> np.ndarray:
        second = self._sums(x, True).moments.second
        assert second is not None
        return second

    def _faint(self, least: float, n: int) -> float:
        """By how much rounding may move an entry of the gradient, where u is at least `least`."""
        # log u is off by eps (|log u| + 1/u) unless the base keeps its digits; where it is not, this is generous.
        off = EPS * (4.0 - np.log(least) + 1.0 / least)
        sums = EPS * (16.0 + 4.0 * np.sqrt(n)) * (np.abs(self._levels) + self._self_terms)
        return float((self._shrink * (sums + off * (1.0 + np.abs(self._total)))).max())

    def hessian(self, x: np.ndarray) -> np.ndarray:
        return -self.evaluate(x).curvature / np.outer(self._shrink, self._shrink)

    def log_masses(self, x: np.ndarray) -> np.ndarray:
        latest = self._latest
        sums = latest[1] if latest is not None and np.array_equal(latest[0], x) else self._sums(x, False)
        log_z, log_p = float(np.log(sums.mass)), np.empty(self._log_q.size)
        out = np.empty((self.m, longest(self._parts)))
        for part in self._parts:
            _, log_u = self._logs(part, x @ self._ratio.block(part, out), log_p[part])
            log_u += self._log_q[part]
            log_u -= log_z
        return spread(log_p, self._kept, self._n)

    def influence(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n, everywhere = self._log_q.size, slice(0, self._log_q.size)
        relative = self.table
        u, log_u = self._logs(everywhere, relative @ x, np.empty(n))
        z = float(u.mean())
        log_z = float(np.log(z))
        ratio = np.exp(self._log_q)[:, None] * relative * (np.exp(self._top) * n)
        finite = np.where(ratio > 0, self._columns.whole(), 0.0)
        centred = u - z
        information = ratio * (finite - log_u[:, None])
        conditions = -(information - information.mean(axis=0))
        conditions -= (ratio - self._total) * log_z + np.outer(centred, self._total) / z
        own = ratio * finite - self._self
        pull = -(u * log_u - (u * log_u).mean()) + (1.0 + log_z) * centred - own @ self.to_natural(x)
        return pull, conditions * self._shrink
