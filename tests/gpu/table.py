"""``docs/gpu.json`` as the tables of ``docs/gpu.md``: ``python -m tests.gpu.table`` writes them between its marks.

A run is taken over by ``python -m tests.gpu.table FOLDER/gpu.json``, which copies it to ``docs/gpu.json`` first. Runs
on a CPU and tiny ones are refused: they measure nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
NOTHING = (
    "No GPU was at hand so far. Nothing on this page has been measured on one; the program below has run on a CPU "
    "only, with tiny networks."
)


def tables(found: dict[str, Any]) -> str:
    """What was found, as Markdown; a sentence that says so where nothing was."""
    if not found.get("accelerator") or found.get("tiny"):
        return NOTHING
    parts = found["parts"]
    lines = [f"On one {found['device']}, torch {found['torch']}, in {found['seconds']:.0f} s. One run.", ""]
    for name, part in parts.items():
        for key in ("skipped", "failed"):
            if key in part:
                lines += [f"- {name}: {key}, {part[key]}"]
    products = parts.get("matrix_products", {}).get("tera_flop_per_second")
    if products:
        lines += ["", "| matrix product | TFLOP/s |", "|---|---|"]
        lines += [f"| {name} | {value:.0f} |" for name, value in products.items()]
    for name in ("sd15", "sdxl", "flux"):
        if "stages" in parts.get(name, {}):
            lines += ["", *_pipeline(name, parts[name], (products or {}).get("bfloat16"))]
    if "relative_error" in parts.get("parity", {}):
        lines += ["", "| one prediction of SD 1.5 against float32 | relative error |", "|---|---|"]
        lines += [f"| {name} | {value:.1e} |" for name, value in parts["parity"]["relative_error"].items()]
    if "draws" in parts.get("solver", {}):
        part = parts["solver"]
        lines += [
            "",
            f"Solver: {part['draws']:,} draws in {part['seconds_on_the_host']:.1f} s on the host, "
            f"gap {part['gap']:.1e}; {part['weights_per_second_on_the_device']:.2e} weights a second on the device.",
        ]
        there = part["on_the_device"]
        lines += ["", "| solved on the device | seconds | gap | KKT residual |", "|---|---|---|---|"]
        lines += [
            f"| {name} | {one['seconds']:.3f} | {one['gap']:.1e} | {one['kkt_residual']:.1e} |"
            for name, one in there.items()
            if isinstance(one, dict)
        ]
    if "certified" in parts.get("digits", {}):
        part = parts["digits"]
        verdict = "certified" if part["certified"] else "not certified"
        lines += [
            "",
            f"`digits`, 1 %, end to end: {part['seconds']:.0f} s, {verdict}.",
            *(f"- {why}" for why in part["objections"]),
        ]
    return "\n".join(lines)


def _pipeline(name: str, part: dict[str, Any], ceiling: float | None) -> list[str]:
    bare = part["bare"]
    share = f", {100 * bare['forward_tera_flop_per_second'] / ceiling:.0f} % of the product's" if ceiling else ""
    lines = [
        f"{name}, {part['parameters']:,} weights in {part['dtype']}, samples {tuple(part['sample_shape'])}. Bare "
        f"network, {bare['batch']} rows: {bare['forward_rows_per_second']:.1f} rows/s forwards "
        f"({bare['forward_tera_flop_per_second']:.0f} TFLOP/s{share}, {_gib(bare['forward_peak_bytes'])}), "
        f"{bare['step_rows_per_second']:.1f} rows/s forwards and backwards with a LoRA "
        f"({_gib(bare['step_peak_bytes'])}).",
        "",
        "| stage | seconds | units | units/s | evaluations | evaluations/s | peak |",
        "|---|---|---|---|---|---|---|",
    ]
    for stage in part["stages"]:
        units = "" if stage["units"] is None else f"{stage['units']:,}"
        speed = "" if stage["units_per_second"] is None else f"{stage['units_per_second']:.2f}"
        lines.append(
            f"| {stage['name']} | {stage['seconds']:.1f} | {units} | {speed} | {stage['evaluations']:,} | "
            f"{stage['evaluations_per_second']:.1f} | {_gib(stage['peak_bytes'])} |"
        )
    return lines


def _gib(count: int | None) -> str:
    return "not measured" if count is None else f"{count / 2**30:.1f} GiB"


def put_in(page: str, found: dict[str, Any]) -> str:
    """The page with the tables between its marks."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{tables(found)}\n{END}{rest.split(END)[1]}"


def main(arguments: list[str]) -> int:
    kept, page = DOCS / "gpu.json", DOCS / "gpu.md"
    if arguments:
        found = json.loads(Path(arguments[0]).read_text("utf-8"))
        if not found.get("accelerator") or found.get("tiny"):
            print(f"{arguments[0]}: a run on a CPU, or a tiny one, measures nothing", file=sys.stderr)
            return 2
        kept.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    found = json.loads(kept.read_text("utf-8"))
    page.write_text(put_in(page.read_text("utf-8"), found), "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
