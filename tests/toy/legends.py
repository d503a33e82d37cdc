"""What a legend must not cover, measured on the drawn figure."""

from __future__ import annotations

from typing import Any


def assert_legend_lies_outside(ax: Any) -> None:
    """The legend overlaps neither the axes nor their labels, and the figure holds all of it."""
    figure = ax.figure
    figure.canvas.draw()
    box = ax.get_legend().get_window_extent()
    assert not box.overlaps(ax.get_window_extent())
    assert not box.overlaps(ax.xaxis.get_tightbbox())
    # Of a drawn figure pixels are counted from 0; half of one is rounding.
    assert box.x0 >= -0.5
    assert box.y0 >= -0.5
    assert box.x1 <= figure.bbox.width + 0.5
