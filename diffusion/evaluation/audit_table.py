"""What an audit found: how often a concept is there, and how quickly it comes back; as lines and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from diffusion.evaluation.relearning import Curve

Judged = dict[str, tuple[float, float]]  # classifier to mean and standard error


@dataclass(frozen=True)
class Cell:
    """One row: what was asked, how, of which concept, and how often it was there, before and after."""

    asked: str
    setting: str
    concept: str
    samples: int
    before: Judged
    after: Judged


@dataclass(frozen=True)
class Audit:
    """What :func:`audit` found; ``curves``: by concept, the arms of :mod:`diffusion.evaluation.relearning`."""

    cells: tuple[Cell, ...]
    curves: dict[str, tuple[Curve, ...]]
    recalls: dict[str, tuple[float, float]]

    def lines(self) -> list[str]:
        classifiers = list(self.cells[0].after)
        out = ["how often the concept is there, unlearned (base model), %"]
        out.append(
            f"{'concept':<24}{'asked':<14}{'sampled':<22}{'samples':>6}" + "".join(f"{j:>26}" for j in classifiers)
        )
        for cell in self.cells:
            said = []
            for classifier in classifiers:
                (a, ea), (b, _) = cell.after[classifier], cell.before.get(classifier, (float("nan"), 0.0))
                said.append(f"{100 * a:6.2f} ± {100 * ea:4.2f} ({100 * b:6.2f})".rjust(26))
            out.append(f"{cell.concept[:23]:<24}{cell.asked:<14}{cell.setting:<22}{cell.samples:>6}" + "".join(said))
        for concept, curves in self.curves.items():
            out += ["", f"{concept!r} taught again from a few images: how often it is there after so many steps, %"]
            out.append(f"{'':<44}" + "".join(f"{step:>16}" for step in curves[0].steps))
            for curve in curves:
                pairs = zip(100 * curve.mean, 100 * curve.stderr, strict=True)
                shown = (f"{mean:6.1f} ± {error:4.1f}".rjust(16) for mean, error in pairs)
                out.append(f"{curve.arm:<44}" + "".join(shown))
            value, error = self.recalls[concept]
            out.append(
                "recall: the controls do not differ, so nothing can be said"
                if np.isnan(value)
                else f"recall {value:.2f} ± {error:.2f}   (0: comes back like something new; 1: like something known "
                "by another name)"
            )
        return out

    def data(self) -> dict[str, Any]:
        return {
            "cells": [asdict(cell) for cell in self.cells],
            "taught again": {
                concept: {
                    "recall": list(self.recalls[concept]),
                    "arms": [
                        {
                            "arm": curve.arm,
                            "steps": list(curve.steps),
                            "frequency": curve.frequency.tolist(),
                            "mean": curve.mean.tolist(),
                            "standard error": curve.stderr.tolist(),
                        }
                        for curve in curves
                    ],
                }
                for concept, curves in self.curves.items()
            },
        }
