"""One page, from what ``study.json`` holds: planted images, the nearest sample of each model, dual rounds, levels."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffusion.digits.planted_study import PlantedStudy

# Okabe and Ito's blue and vermilion, told apart by every kind of colour vision.
TARGET, UNWANTED = "#0072B2", "#D55E00"


def image(result: PlantedStudy, figure: Any) -> None:
    """Samples into a matplotlib figure of about 9 x 8 inches with a constrained layout.

    Columns: images by repeats. Rows: the image; the nearest sample of each model with its similarity. Below: the path
    of the multipliers, or of what was asked of the exact answer; and levels asked and reached.
    """
    method = result.solving[0]
    images, models, fit = result.images, result.models, result.fits[method]
    rows = {"never_shown": "never shown", "before": "before", method: "after"}
    order = np.argsort(images.repeats)
    names = [f"×{images.repeats[i]}" for i in order]
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.75, 1))
    cells = top.subplots(1 + len(rows), len(order))
    for column, i in enumerate(order):
        _digit(cells[0, column], images.images[i], names[column])
        for row, name in enumerate(rows, 1):
            _digit(cells[row, column], models[name].nearest[i], f"{models[name].largest_similarity[i]:.2f}")
    for row, text in enumerate(("planted", *rows.values())):
        cells[row, 0].set_ylabel(text, fontsize=10)
    top.suptitle(f"The nearest of {result.settings.samples} samples to each image, and its similarity", fontsize=11)
    path, levels = bottom.subplots(1, 2)
    if fit.asked:  # multipliers are those of the exact answer to it
        ratio, unit, title = np.array(fit.asked), "nats", "Asked of the exact answer"
    else:
        ratio, unit, title = np.array(fit.multipliers) / images.shares, "multiplier / share", "Multipliers"
    for column, i in enumerate(order):
        path.plot(ratio[:, i], color=TARGET, alpha=0.25 + 0.75 * column / (len(order) - 1), lw=1.4)
    last, gap = -np.inf, 0.05 * float(ratio.max() - ratio.min())
    for column in np.argsort(ratio[-1, order]):  # names from below, none nearer to the last than a line of text
        last = max(last + gap, float(ratio[-1, order[column]]))
        path.annotate(names[column], (len(ratio) - 1, last), xytext=(3, -3), textcoords="offset points", size=7)
    path.set(xlabel="dual round", ylabel=unit, title=title)
    place, drops = np.arange(len(order)), [fit.measured.elbo_drop[i] for i in order]
    elbo_drop, error = np.array([(drop.mean, drop.stderr) for drop in drops]).T
    levels.bar(place, elbo_drop, yerr=2 * error, color=TARGET, alpha=0.8, width=0.6)
    levels.plot(place, np.array(images.levels)[order], "_", color=UNWANTED, ms=18, mew=2.5, label="level")
    levels.set_xticks(place, names)
    levels.set(
        xlabel="image, by repeats", ylabel="negative ELBO gained / nats", title="Levels asked and reached (± 2 s.e.)"
    )
    levels.legend(frameon=False)
    for ax in (path, levels):
        ax.spines[["top", "right"]].set_visible(False)


def _digit(ax: Any, pixels: Any, text: str) -> None:
    ax.imshow(np.array(pixels), cmap="gray_r", vmin=0, vmax=16)
    ax.set_title(text, fontsize=8, pad=2)
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_color("#999999")
