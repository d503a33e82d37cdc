"""A table of nodes by constraints, read in blocks of doubles: as it is, from single precision, or from a file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from duality.passes import longest, parts, run

#: Tables of so few columns weigh no more than what is made of them in the end; from so many nodes on that counts.
NARROW, LONG = 2, 200_000


class Columns:
    """A table `(n, m)` of which blocks `(m, k)` in double precision are asked for.

    Args:
        values: `(n, m)` in double or single precision, in memory or mapped from a file.
        function: applied to blocks `(m, k)` in place, where the statistic is a function of what is stored.
    """

    def __init__(self, values: np.ndarray, function: Callable[[np.ndarray], None] | None = None) -> None:
        self._lay(values, function)
        self._source: Columns | None = None

    @classmethod
    def kept(cls, table: np.ndarray, source: Columns) -> Columns:
        """`source` as it has been written into a table `(n, m)`, until `release` goes back to it."""
        columns = cls(table)
        columns._source = source
        return columns

    def release(self) -> None:
        """Forgets a table that counts beside what is to come: blocks are then made anew of what they were made of."""
        if self._source is not None and self.n >= LONG and self.m <= NARROW:
            self._lay(self._source._values, self._source._function)
            self._source = None

    def _lay(self, values: np.ndarray, function: Callable[[np.ndarray], None] | None) -> None:
        self._rows = values.T
        self._function = function
        self._values = values
        #: Whether the table is in memory in double precision, so that what is made of it may be as large.
        self.resident = values.dtype == np.float64 and not isinstance(values, np.memmap)
        #: Whether blocks are the table itself, and not copies.
        self.direct = function is None and self.resident and values.strides[0] == values.itemsize

    @property
    def n(self) -> int:
        """Number of nodes."""
        return int(self._rows.shape[1])

    @property
    def m(self) -> int:
        """Number of columns."""
        return int(self._rows.shape[0])

    def mapped(self, function: Callable[[np.ndarray], None]) -> Columns:
        """With a function applied to what blocks hold."""
        first = self._function
        if first is None:
            return Columns(self._values, function)

        def both(rows: np.ndarray) -> None:
            first(rows)
            function(rows)

        return Columns(self._values, both)

    def block(self, part: slice, out: np.ndarray) -> np.ndarray:
        """`(m, k)` of the nodes in `part`: to be read only. out: `(m, K)` with K ≥ k, where copies go."""
        if self.direct:
            return np.asarray(self._rows[:, part])
        copy = out[:, : part.stop - part.start]
        np.copyto(copy, self._rows[:, part])
        if self._function is not None:
            self._function(copy)
        return copy

    def narrowed(self) -> Columns:
        """Those of a table that blocks are parts of, in single precision: `block` then gives such blocks."""
        narrow = Columns(self._rows.astype(np.float32).T)
        narrow.direct = True
        return narrow

    def at(self, kept: np.ndarray) -> Columns:
        """Those of some nodes `(n,)`, copied."""
        return Columns(np.asfortranarray(self.whole()[kept]))

    def some(self, places: np.ndarray) -> Columns:
        """Those of the nodes at `places` (increasing), in double precision."""
        whole = self._rows
        # `take` is faster, and copies the whole of what does not lie row by row in memory.
        taken = np.take(whole, places, axis=1) if whole.flags.c_contiguous else whole[:, places]
        rows = np.ascontiguousarray(taken, dtype=np.float64)
        if self._function is not None:
            self._function(rows)
        return Columns(rows.T)

    def whole(self) -> np.ndarray:
        """The table `(n, m)` in double precision, column by column in memory."""
        if self.direct:
            return np.asarray(self._rows.T)
        full = np.empty(self._rows.shape)
        for part in parts(self.n, self.m):
            self.block(part, full[:, part])
        return full.T

    def ends(self, kept: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest entries of each column `(m,)`, among the nodes of kept `(n,)` where that is given."""

        def visit(blocks: list[slice]) -> Ends:
            ends, out = Ends(self.m), np.empty((self.m, longest(blocks)))
            for part in blocks:
                rows = self.block(part, out)
                ends.add(rows if kept is None or kept[part].all() else rows[:, kept[part]])
            return ends

        found = run(parts(self.n, self.m), visit)
        return found.least, found.greatest


class Ends:
    """Least and greatest entries of columns `(m,)` so far."""

    def __init__(self, m: int) -> None:
        self.least, self.greatest = np.full(m, np.inf), np.full(m, -np.inf)

    def add(self, rows: np.ndarray) -> None:
        self.least = np.minimum(self.least, rows.min(axis=1, initial=np.inf))
        self.greatest = np.maximum(self.greatest, rows.max(axis=1, initial=-np.inf))

    def merge(self, other: Ends) -> None:
        self.least, self.greatest = np.minimum(self.least, other.least), np.maximum(self.greatest, other.greatest)
