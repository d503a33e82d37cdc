"""Which columns of the log ratios, or of the detectors, each part of a `Joint` reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from duality.problems import Problem
from duality.ratios import LogRatios


def shared_out(parts: Sequence[Problem], ratios: LogRatios) -> tuple[np.ndarray, ...]:
    """The columns in order, as many for each part as it has levels; all of them for one that is alone with its kind.

    Raises:
        ValueError: where that does not use up what there is.
    """
    sources = [part.source for part in parts]
    found, used = [], {"values": 0, "detectors": 0}
    for part, source in zip(parts, sources, strict=True):
        size = ratios.columns(source) if sources.count(source) == 1 else part.levels.size
        found.append(np.arange(used[source], used[source] + size))
        used[source] += size
    for source, count in used.items():
        if count != ratios.columns(source) and count:
            raise ValueError(
                f"columns: the parts that read {source} have {count} levels for {ratios.columns(source)}"
                " columns; say which each reads"
            )
    return tuple(found)


def check_columns(parts: Sequence[Problem], chosen: Sequence[np.ndarray], ratios: LogRatios) -> None:
    """ValueError for columns that are not there, or that do not fit the levels."""
    for k, (part, each) in enumerate(zip(parts, chosen, strict=True)):
        there = ratios.columns(part.source)
        if each.size == 0 or each.min() < 0 or each.max() >= there:
            raise ValueError(f"columns: part {k} reads {each.tolist()} of {part.source}, of which {there} are given")
        if part.levels.size not in (1, each.size):
            raise ValueError(f"columns: part {k} has {part.levels.size} levels for {each.size} columns")
