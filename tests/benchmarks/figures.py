"""The figures of docs/reference/duality.md, from the JSON of the benchmark: python tests/benchmarks/figures.py."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reference" / "duality.md"
BEGIN, END = "<!-- figures: tests/benchmarks/figures.py -->", "<!-- end of figures -->"
SIZES = {10_000: "$10^4$", 100_000: "$10^5$", 1_000_000: "$10^6$", 10_000_000: "$10^7$", 100_000_000: "$10^8$"}


def milliseconds(seconds: float) -> str:
    """Two digits, and thousands with commas."""
    value = seconds * 1e3
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def power(value: float) -> str:
    """One digit of a small number."""
    return f"{value:.0e}".replace("e-0", "e-") if value > 0 and math.isfinite(value) else "0"


def compared(data: dict[str, Any]) -> list[str]:
    """Ours beside L-BFGS-B, one line for each size."""
    lines = [
        "| | $n$ | $m$ | `solve` | first time | L-BFGS-B | ratio | driven | ratio | peak / input | gap of `solve` |"
        " miss | error of L-BFGS-B | miss | error, driven | miss |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in data["figures"]:
        ratio = each["solve"] / each["L-BFGS-B"]
        cells = [f"`{each['problem']}`", SIZES.get(each["n"], f"{each['n']:,}"), str(each["m"])]
        cells += [milliseconds(each[name]) for name in ("solve", "first", "L-BFGS-B")]
        cells += [f"{ratio:.2f}", milliseconds(each["driven"]), f"{each['solve'] / each['driven']:.2f}"]
        cells += [f"{each['peak / input']:.1f}", power(each["gap"]), power(each["kkt"])]
        cells += [power(each[f"{name} {what}"]) for name in ("L-BFGS-B", "driven") for what in ("error", "miss")]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def slower(data: dict[str, Any]) -> list[str]:
    """The solvers that take seconds, where they were run."""
    lines = ["| | $n$ | $m$ | `solve` | trust-constr | Clarabel | SCS |", "|---|---|---|---|---|---|---|"]
    for each in data["figures"]:
        if "SCS" in each:
            cells = [f"`{each['problem']}`", SIZES.get(each["n"], f"{each['n']:,}"), str(each["m"])]
            cells += [milliseconds(each[name]) for name in ("solve", "trust-constr", "CLARABEL", "SCS")]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def many(data: dict[str, Any]) -> list[str]:
    """One solve each of very many draws, in seconds."""
    lines = ["| | $n$ | $m$ | threads | wall | processor | gap |", "|---|---|---|---|---|---|---|"]
    for each in data["figures"]:
        where = " (file)" if each["file"] else ""
        name = "reading and checking" if each["problem"] == "LogRatios" else f"`{each['problem']}`"
        cells = [name + where, SIZES.get(each["n"], f"{each['n']:,}"), str(each["m"]), str(each.get("workers", 1))]
        cells += [f"{each['wall']:.1f} s", f"{each['processor']:.1f} s", power(each["gap"]) if "gap" in each else ""]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def page() -> str:
    """The section, from the JSON files that are there."""
    solve = json.loads((HERE / "solve.json").read_text())
    blocks = [[f"Measured on: {solve['machine']}. Processor milliseconds, medians of five."], compared(solve)]
    blocks.append(["The same problems by solvers that were run once:"])
    blocks.append(slower(solve))
    for name in ("large", "file"):
        if (HERE / f"{name}.json").exists():
            data = json.loads((HERE / f"{name}.json").read_text())
            said = "in memory, in double precision" if name == "large" else "in a file, in single precision"
            blocks += [[f"Draws {said}, one run each ({data['machine']}):"], many(data)]
    return "\n\n".join("\n".join(block) for block in blocks)


def replaced(text: str) -> str:
    """The documentation with the section between the marks as it is to be."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{page()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text()))
