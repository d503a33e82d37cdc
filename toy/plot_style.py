"""The one style of all pictures: colours, dashes, fonts, and legends that lie outside of what they explain.

Colours are Okabe and Ito's, told apart by every kind of colour vision, and lines differ in dash as well. Matplotlib is
loaded on first use: ``pip install unlearning-duality[plot]``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

P = ParamSpec("P")

INK, GREY = "#222222", "#8a8a8a"
PRETRAINED, UNWANTED, TARGET, MARK, SECOND, THIRD = "#7f7f7f", "#D55E00", "#0072B2", "#CC79A7", "#009E73", "#E69F00"
CYCLE = (TARGET, UNWANTED, SECOND, MARK, THIRD, "#56B4E9")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.8,
    "figure.dpi": 110,
    "savefig.dpi": 150,
}
# A title that is set outside of this style.
TITLE: dict[str, Any] = {"loc": STYLE["axes.titlelocation"], "fontsize": STYLE["axes.titlesize"]}


def pyplot() -> Any:
    """matplotlib.pyplot, or an ImportError that says what to install."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'unlearning-duality[plot]'") from error
    return plt


def styled(draw: Callable[P, Any]) -> Callable[P, Any]:
    """The same function, drawing in the common style: legends and titles take theirs when they are made."""

    @functools.wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> Any:
        with pyplot().rc_context(STYLE):
            return draw(*args, **kwargs)

    return inside


def new_axes(width: float = 5.0, height: float = 3.8) -> Any:
    """One empty Axes in the common style."""
    plt = pyplot()
    with plt.rc_context(STYLE):
        return plt.subplots(figsize=(width, height), layout="constrained")[1]


def legend_below(ax: Any, **settings: Any) -> None:
    """A legend 34 points below the axes, however short they are: clear of the label, and of all data."""
    from matplotlib.transforms import ScaledTranslation

    below = ax.transAxes + ScaledTranslation(0, -34 / 72, ax.figure.dpi_scale_trans)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, **settings)
