"""The pages build without a warning and with whole links, and nothing in them is fetched from another host."""

from __future__ import annotations

import importlib.util
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


def test_a_broken_link_would_be_noticed(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("docs_links", DOCS / "_ext" / "links.py")
    assert spec is not None
    assert spec.loader is not None
    links = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(links)
    (tmp_path / "inner").mkdir()
    (tmp_path / "one.html").write_text('<a href="inner/two.html#here">x</a><a href="#top">x</a><h1 id="top">x</h1>')
    (tmp_path / "inner" / "two.html").write_text('<p id="here">x</p><a class="c" href="../one.html?x=1">x</a>')
    assert links.broken(tmp_path) == []
    (tmp_path / "inner" / "two.html").write_text(
        '<a href="../one.html#nowhere">x</a><a href="three.html">x</a><a href="https://example.org/">x</a>'
        '<img alt="" src="no.png">'
    )
    assert sorted(links.broken(tmp_path)) == [
        "one.html -> inner/two.html#here",
        "two.html -> ../one.html#nowhere",
        "two.html -> no.png",
        "two.html -> three.html",
    ]
