"""SciPy's HiGHS, as tight as it will go."""

from __future__ import annotations

from typing import Any

from scipy.optimize import linprog


def tightest(**program: Any) -> Any:
    """`scipy.optimize.linprog` at the tightest tolerances at which HiGHS ends with an answer; None where it has none.

    1e-10 is the least that HiGHS takes. Where rows differ by little more than that it sometimes gives up, on programs
    that it solves at 1e-9.
    """
    for tolerance in (1e-10, 1e-9, 1e-8, 1e-7):
        options = {"primal_feasibility_tolerance": tolerance, "dual_feasibility_tolerance": tolerance}
        found = linprog(method="highs", options=options, **program)
        if found.x is not None:
            return found
    return None
