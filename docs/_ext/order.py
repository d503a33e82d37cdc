"""The gallery's order: from the question to its extremes to its uses."""

from __future__ import annotations

from typing import Any

ORDER = (
    "plot_three_problems.py",
    "plot_weights_against_levels.py",
    "plot_several_concepts.py",
    "plot_keeping.py",
    "plot_many_prompts.py",
    "plot_beyond_the_critical_level.py",
    "plot_atoms.py",
    "plot_four_guidance_rules.py",
    "plot_solving_from_draws.py",
    "plot_confidence.py",
    "plot_calibration.py",
    "plot_digit_unlearned.py",
    "plot_forgetting_images.py",
    "plot_planted_images.py",
    "plot_benchmark_frontiers.py",
)


class GalleryOrder:
    """Sort key: position in `ORDER`, unknown files last, by name."""

    def __init__(self, src_dir: Any = None) -> None:
        self.src_dir = src_dir

    def __call__(self, filename: str) -> tuple[int, str]:
        return (ORDER.index(filename) if filename in ORDER else len(ORDER), filename)
