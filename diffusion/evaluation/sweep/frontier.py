"""All points of a sweep: which are not beaten, and tables; made from JSON alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffusion.evaluation.sweep.point import Point

BEFORE = "before"
AXES = ("UA", "trained", "paraphrases", "contexts", "IRA", "CRA")


def read_points(folder: Path) -> list[Point]:
    """Every point in a folder, by name. ``ValueError`` naming a file that is none."""
    found = []
    for path in sorted(folder.glob("point-*.json")):
        try:
            found.append(Point.model_validate_json(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{path} is no point of a sweep: {error}") from error
    return found


def unbeaten(axes: np.ndarray) -> np.ndarray:
    """Which rows of (n, k), more is better, no other row is at least as good as on all axes and better on one."""
    better = np.all(axes[None] >= axes[:, None], axis=-1) & np.any(axes[None] > axes[:, None], axis=-1)
    return np.asarray(~np.any(better, axis=1))


def best_at(points: Sequence[Point], least: float, by: str) -> Point | None:
    """Of points with UA at least ``least``, the one with the most of IRA + CRA; None where there is none."""
    enough = [point for point in points if point.failed is None and point.axes(by)[0] >= least]
    return max(enough, key=lambda point: sum(point.axes(by)[1:]), default=None)


def table(points: Sequence[Point], by: str) -> list[str]:
    """One line a point, by method and UA. A point that no point of another setting beats on UA, IRA and CRA has a
    star."""
    fine = [point for point in points if point.failed is None]
    stars = dict(zip((p.setting.label for p in fine), unbeaten(np.array([p.axes(by) for p in fine])), strict=True))
    heads = (*AXES, "anchors", "energy", "1000 KID change", "nats asked", "nats kept")
    lines = [
        f"by the {by}; UA and the shares of the concept after it with one-sided 95 % bounds, %",
        f"{'method':<18}{'strength':>9}{'steps':>6}{'batch':>6}{'rate':>8}{'kind':>8}"
        + "".join(f"{head:>16}" for head in heads)
        + f"{'s':>8}{'evaluations':>12}{'bytes':>10}",
    ]
    for point in sorted(points, key=lambda p: (p.setting.method != BEFORE, p.setting.method, _removed(p, by))):
        one = point.setting
        head = (
            f"{one.method:<18}{one.strength:>9g}{one.max_train_steps:>6}{one.train_batch_size:>6}"
            f"{one.learning_rate:>8.0e}{'weights' if one.full_weights else 'lora':>8}"
        )
        if point.failed is not None:
            lines.append(f"{head}  failed: {point.failed}")
            continue
        cells = [*_rates(point, by), _share(point, "anchors", by)]
        cells.append(f"{point.of('energy_distance', 'retained').mean:.4f}")
        cells += [_kid(point), *(str(point.of("cost", name)) for name in ("asked", "retained"))]
        mark = "*" if stars[one.label] else ""
        lines.append(
            head
            + "".join(f"{cell:>16}" for cell in cells)
            + f"{point.seconds:>8.0f}{point.network_evaluations:>12}{point.bytes:>10} {mark}"
        )
    return lines


def markdown(points: Sequence[Point], by: str) -> list[str]:
    """The same in short as a table for a page."""
    heads = ("method", "strength", "budget", *AXES, "1000 KID change", "nats kept", "s")
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for point in sorted(points, key=lambda p: (p.setting.method != BEFORE, p.setting.method, _removed(p, by))):
        one = point.setting
        if point.failed is not None:
            lines.append(f"| {one.method} | {one.strength:g} | | failed: {point.failed} |" + " |" * 8)
            continue
        budget = f"{one.max_train_steps} x {one.train_batch_size}, {one.learning_rate:g}"
        cells = [one.method, f"{one.strength:g}", budget if one.max_train_steps > 1 else ""]
        cells += [*_rates(point, by), _kid(point), str(point.of("cost", "retained")), f"{point.seconds:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _removed(point: Point, by: str) -> float:
    return -1.0 if point.failed is not None else point.axes(by)[0]


def _rates(point: Point, by: str) -> list[str]:
    """UA, the shares of the concept that it is made of, IRA, CRA, in percent."""
    ua, ira, cra = (f"{100 * value:.1f}" for value in point.axes(by))
    return [ua, *(_share(point, name, by) for name in ("trained", "paraphrases", "contexts")), ira, cra]


def _kid(point: Point) -> str:
    """What KID gained on the base model's under retained prompts, in thousandths."""
    if not point.has("kid_change"):
        return ""
    found = point.of("kid_change", "retained")
    return f"{1000 * found.mean:.1f} ± {1000 * found.stderr:.1f}"


def _share(point: Point, prompts: str, by: str) -> str:
    """How often the concept is there, and its bound."""
    for each in point.figures:
        if (each.name, each.prompts, each.by) == ("target_share", prompts, by) and each.bound is not None:
            return f"{100 * each.estimate.mean:.1f} ≤ {100 * each.bound.value:.1f}"
    raise LookupError(f"{point.setting.label} has no share with a bound under {prompts} by {by}")
