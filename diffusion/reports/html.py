"""Pages that need nothing beside them: images are inside, no script, no outside host. Templates are in ``templates/``.

Whatever a template is given is escaped, so that a prompt is shown as it was written.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


@dataclass(frozen=True)
class Table:
    """Column heads, and rows of as many cells."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"rows must have {len(self.columns)} cells as there are columns, got {list(row)}")


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("diffusion.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    found.filters["data_uri"] = data_uri
    return found


def data_uri(png: bytes) -> str:
    """A PNG as the source of an image on the page itself."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def render(template: str, **context: Any) -> str:
    """A page. ``jinja2.UndefinedError`` where the context lacks something that the template shows."""
    return _environment().get_template(f"{template}.html.jinja").render(**context)
