"""The pages build without a warning, and nothing in them is fetched from another host."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_build_is_clean_and_self_contained(tmp_path: Path) -> None:
    for needed in ("sphinx", "myst_parser", "sphinx_gallery", "furo"):
        pytest.importorskip(needed)
    out = tmp_path / "html"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    built = subprocess.run(
        [*command, "-d", str(tmp_path / "trees"), str(DOCS), str(out)], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr[-4000:]
    pages = sorted(out.rglob("*.html"))
    assert len(pages) > 20
    fetched = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*\b(?:src|href)=[\"'](?:https?:)?//[^\"']+", re.I)
    for page in pages:
        assert not fetched.findall(page.read_text("utf-8")), page.name
    for style in out.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(?:https?:)?//", style.read_text("utf-8")), style.name
    # A link inside leads to a page and, where it names one, to a place on it.
    ids = {page: set(re.findall(r"\bid=\"([^\"]+)\"", page.read_text("utf-8"))) for page in pages}
    for page in pages:
        for target, anchor in re.findall(r"<a\b[^>]*\bhref=\"([^\"#:]*)(?:#([^\"]*))?\"", page.read_text("utf-8")):
            place = (page.parent / target).resolve() if target else page
            if not target and not anchor:
                continue
            assert place.exists(), f"{page.name} -> {target}"
            if anchor and place in ids:
                assert anchor in ids[place], f"{page.name} -> {target}#{anchor}"
