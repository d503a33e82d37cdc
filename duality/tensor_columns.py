"""A table of nodes by constraints that lies on an accelerator: it stays there, and only sums come back.

Blocks are made in double precision on the tensor's own device, and what is added up over them is read off in one
transfer for each pass. torch is imported where a tensor is at hand, and so has been imported already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from duality._arrays import Array
from duality.columns import Columns, Ends
from duality.ratio_tables import check_shape
from duality.shards import merged

#: Doubles per block, 32 MB: large enough that launching kernels costs little, small beside a table worth bringing.
BLOCK = 1 << 22


def stays(values: Any) -> bool:
    """Whether these are real numbers on a device of their own that adds up in double precision (Apple's does not)."""
    if not hasattr(values, "detach") or values.device.type == "cpu" or not values.is_floating_point():
        return False
    try:
        return bool(values.new_zeros(1).double().sum().item() == 0.0)
    except (TypeError, RuntimeError):
        return False


def placed(name: str, values: Array) -> Array:
    """A copy of a tensor `(n, m)` where it lies and in the type it has, column by column; `(n,)` is read as `(n, 1)`.

    ValueError for another shape; entries are not looked at.
    """
    table = values.detach()
    table = table[:, None] if table.ndim == 1 else table
    check_shape(name, table)
    rows = table.T
    return rows.new_empty(tuple(rows.shape)).copy_(rows).T


def columns_of(table: Array) -> Columns:
    """A table `(n, m)`, to be read block by block where it lies."""
    return Columns(table) if isinstance(table, np.ndarray) else TensorColumns(table)


class TensorColumns(Columns):
    """A tensor `(n, m)` of which blocks `(m, k)` in double precision are made on its device.

    Args:
        values: `(n, m)`, real numbers of any precision.
        function: of blocks `(m, k)`, where the statistic is a function of what is stored.
    """

    _rows: Any

    def __init__(self, values: Array, function: Callable[[Array], Array] | None = None) -> None:
        self._values, self._rows, self.function = values, values.T, function
        self._source = None
        self.resident = self.direct = False

    def mapped(self, function: Callable[[Array], Array]) -> TensorColumns:
        """With a function applied to what blocks hold; it returns what it makes."""
        first = self.function
        return TensorColumns(self._values, function if first is None else lambda rows: function(first(rows)))

    def at(self, kept: np.ndarray) -> TensorColumns:
        """Those of some nodes `(n,)`, copied."""
        return TensorColumns(self._rows[:, self.number(kept)].T, self.function)

    def some(self, places: np.ndarray) -> TensorColumns:
        """Those of the nodes at `places`."""
        return self.at(places)

    def whole(self) -> np.ndarray:
        """The table `(n, m)` as an array of NumPy: for what is not computed on the device."""
        full = np.empty((self.m, self.n))
        for part in self.parts():
            full[:, part] = self.rows(part).cpu().numpy()
        return full.T

    # -- on the device -------------------------------------------------------------------------------------------------

    def parts(self) -> list[slice]:
        """Consecutive ranges that cover the nodes."""
        size = max(BLOCK // max(self.m, 1), 1)
        return [slice(k, min(k + size, self.n)) for k in range(0, self.n, size)]

    def rows(self, part: slice) -> Array:
        """`(m, k)` of the nodes in `part`, in double precision."""
        rows = self._rows[:, part].double()
        return rows if self.function is None else self.function(rows)

    def number(self, values: Any) -> Array:
        """Numbers, flags or places as a tensor on the device, of the type that they have in NumPy."""
        import torch

        return torch.tensor(np.asarray(values), device=self._rows.device)

    def logs(self, log_q: np.ndarray) -> Array:
        """Log weights `(n,)` on the device; one number where all are alike."""
        return self.number(log_q[:1] if log_q.min() == log_q.max() else log_q)

    def sums(self, function: Callable[[Array, slice], Array]) -> np.ndarray:
        """function of every block `(m, k)` and the nodes in it, a vector each, `(blocks, …)`: all that is brought."""
        import torch

        return np.asarray(torch.stack([function(self.rows(part), part) for part in self.parts()]).cpu().numpy())

    def made(self, function: Callable[[Array, slice], Array]) -> Array:
        """function of every block `(m, k)` and the nodes in it, `(k,)` each, as one vector `(n,)` on the device."""
        return joined(*(function(self.rows(part), part) for part in self.parts()))

    def ends(self, kept: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest entries of each column `(m,)`, among the nodes of kept `(n,)` where that is given."""
        out = None if kept is None or kept.all() else self.number(~kept)

        def block(rows: Array, part: slice) -> Array:
            if out is None:
                return joined(rows.amin(1), rows.amax(1))
            lost = out[part]
            return joined(rows.masked_fill(lost, np.inf).amin(1), rows.masked_fill(lost, -np.inf).amax(1))

        found, ends = self.sums(block), Ends(self.m)
        ends.least, ends.greatest = found[:, : self.m].min(axis=0), found[:, self.m :].max(axis=0)
        ends = merged(ends)
        return ends.least, ends.greatest


def over(vector: Array, part: slice) -> Array:
    """A vector `(n,)` at some nodes; where one number serves them all, that number `(1,)`."""
    return vector if vector.numel() == 1 else vector[part]


def joined(*pieces: Array) -> Array:
    """Tensors and numbers on a device as one vector."""
    import torch

    return torch.cat([piece.reshape(-1) for piece in pieces])
