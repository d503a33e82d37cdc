"""The ratios e^rho of a signed mixture relative to their largest, and the sums over them that no multiplier enters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from duality.columns import Columns
from duality.mixture_sums import Peaks
from duality.passes import longest, parts, run

#: Nodes of one column up to which q is kept: no more than a block of several columns takes.
SHORT = 122_880
#: x e^x ≥ -1/e, so E_q[e^rho |rho|] ≤ E_q[e^rho rho] + 2/e.
BELOW = 2.0 / np.e


class MixtureTable:
    """r_i = e^{rho_i - max rho_i} at nodes of positive weight.

    They are kept, or, where the ratios are not in memory in double precision, made anew whenever they are read.

    Args:
        columns: rho.
        log_q: `(k,)`.
        top: max rho `(m,)`, where it is known.

    Attributes:
        ratio: r.
        top: max rho `(m,)`; 0 for a q_i that is absent.
        peaks: where r is largest.
        total: E_q[e^rho] `(m,)`.
        own: E_q[e^rho rho] `(m,)`, and `own_terms`, at least `E_q[e^rho |rho|]`.

    Raises:
        ValueError: for ratios that e^rho overflows for.
    """

    def __init__(self, columns: Columns, log_q: np.ndarray, top: np.ndarray | None) -> None:
        top = columns.ends()[1] if top is None else top
        if top.max() > 700:
            raise ValueError(
                f"values: a log ratio of {top.max():.5g} nats given, but ForwardKL works with e^rho, which overflows"
                " above 700 (E_q[e^rho] must be 1, so exact ratios stay below -min log_weights)"
            )
        # Scales are kept where e^top and e^-top are finite. A q_i that is nowhere above e^-700 is as good as absent.
        self._absent = top < -700.0
        self.top = np.where(self._absent, 0.0, top)
        self._columns, self._log_q = columns, log_q
        self._weights: np.ndarray | None = None
        self._alike: np.ndarray | None = None  # of draws: one block serves all
        if log_q.min() == log_q.max():
            self._alike = np.full(longest(parts(columns.n, columns.m)), np.exp(log_q[0]))
        elif columns.resident and (columns.m > 1 or columns.n <= SHORT):  # no more than a pass takes, or than r does
            self._weights = np.exp(log_q)
        kept = np.empty((columns.m, columns.n)) if columns.resident else None
        found = self._surveyed(kept)
        made = columns.mapped(self._relation())
        self.ratio = made if kept is None else Columns.kept(kept.T, made)
        scale = np.exp(self.top)
        self.peaks, self.total, self.own = found.peaks, found.total * scale, found.own * scale
        self.own_terms = np.abs(self.own) + BELOW

    def q(self, part: slice) -> np.ndarray:
        """q at some nodes `(k,)`."""
        if self._alike is not None:
            length = len(range(*part.indices(self._log_q.size)))
            return self._alike[:length] if length <= self._alike.size else np.full(length, self._alike[0])
        return np.exp(self._log_q[part]) if self._weights is None else self._weights[part]

    def _relation(self) -> Callable[[np.ndarray], Any]:
        """rho `(m, k)` to r, in place: of the table alone, or it would be kept until somebody collects cycles."""
        top, absent = self.top, self._absent

        def relate(rows: np.ndarray) -> None:
            rows -= top[:, None]
            np.exp(rows, out=rows)
            if absent.any():
                rows[absent] = 0.0

        return relate

    def _surveyed(self, kept: np.ndarray | None) -> MixtureFacts:
        return run(parts(self._columns.n, self._columns.m), lambda blocks: self._survey(blocks, kept))

    def _survey(self, blocks: list[slice], kept: np.ndarray | None) -> MixtureFacts:
        """Sums over some nodes, whose r go to kept `(m, n)`."""
        m, size = self.top.size, longest(blocks)
        facts, out, other = MixtureFacts(m), np.empty((m, size)), np.empty((m, size))
        for part in blocks:
            k = part.stop - part.start
            values, q = self._columns.block(part, other), self.q(part)
            r = out[:, :k] if kept is None else kept[:, part]
            np.subtract(values, self.top[:, None], out=r)
            np.exp(r, out=r)
            if self._absent.any():
                r[self._absent] = 0.0
            facts.peaks.add(r)
            facts.total += r @ q
            with np.errstate(invalid="ignore"):
                information = np.multiply(values, r, out=other[:, :k])
                own = information @ q
            if not np.isfinite(own).all():  # where r vanishes so does r rho, at rho = -inf too
                information[r == 0] = 0.0
                own = information @ q
            facts.own += own
        return facts


class MixtureFacts:
    """E_q[r] and E_q[r rho] `(m,)`, and where r is largest."""

    def __init__(self, m: int) -> None:
        self.total, self.own, self.peaks = np.zeros(m), np.zeros(m), Peaks(m)

    def merge(self, other: MixtureFacts) -> None:
        self.peaks.merge(other.peaks)
        self.total, self.own = self.total + other.total, self.own + other.own
