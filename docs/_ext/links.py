"""Links inside the built pages lead to a page that is there, and to a place on it, or the build fails. No network.

Sphinx itself checks cross-references by role; this checks what came out, whoever wrote the link.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

LINK = re.compile(r"<a\b[^>]*\bhref=\"([^\"#:]*)(?:#([^\"]*))?\"")
PLACE = re.compile(r"\bid=\"([^\"]+)\"")
IMAGE = re.compile(r"<img\b[^>]*\bsrc=\"([^\":]+)\"")


def broken(out: Path) -> list[str]:
    """Every link and picture in the pages under ``out`` that leads nowhere, as "page -> target"."""
    texts = {page.resolve(): page.read_text("utf-8") for page in sorted(out.rglob("*.html"))}
    places = {page: set(PLACE.findall(text)) for page, text in texts.items()}
    found = []
    for page, text in texts.items():
        for target, anchor in LINK.findall(text):
            there = (page.parent / unquote(target.partition("?")[0])).resolve() if target else page
            if not there.exists():
                found.append(f"{page.name} -> {target}")
            elif anchor and there in places and unquote(anchor) not in places[there]:
                found.append(f"{page.name} -> {target}#{anchor}")
        found += [f"{page.name} -> {image}" for image in IMAGE.findall(text) if not (page.parent / image).exists()]
    return found


def check(app: Any, failure: Exception | None) -> None:
    from sphinx.errors import ExtensionError

    if failure is None and app.builder.format == "html":
        found = broken(Path(app.outdir))
        if found:
            raise ExtensionError("links that lead nowhere:\n" + "\n".join(found))


def setup(app: Any) -> dict[str, bool]:
    app.connect("build-finished", check, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
