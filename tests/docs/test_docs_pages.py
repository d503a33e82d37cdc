"""Pages as files: links lead somewhere, commands exist, nothing points out of the project by accident."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if not {"_build", "gallery_built"} & set(page.parts))
COMMAND = re.compile(r"^(unlearn (?:[^\n\\]|\\\n)*)$", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_links_inside(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        if "gallery_built/" in target:  # made by the build from the script of the same name
            name = Path(target).stem
            assert name == "index" or (DOCS / "gallery" / f"{name}.py").is_file(), target
        else:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_pages_are_free_of_machine_paths(page: Path) -> None:
    text = page.read_text("utf-8")
    for word in ("/tmp/", "/home/", "/root/", "/work/"):
        assert word not in text, word


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in re.findall(r"^```(?:console|bash|sh)\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S):
            found += [(page.stem, re.sub(r"\\\n", " ", one)) for one in COMMAND.findall(block)]
    return found


@pytest.mark.parametrize(("page", "command"), commands())
def test_commands_exist_with_their_options(page: str, command: str) -> None:
    pytest.importorskip("typer")
    words = shlex.split(command.split("|")[0], comments=True)[1:]
    if words and not words[0].startswith("-"):
        asked = [sys.executable, "-m", "diffusion.cli", words[0], "--help"]
    else:
        asked = [sys.executable, "-m", "diffusion.cli", "--help"]
    answer = subprocess.run(asked, capture_output=True, text=True, env={**_environment(), "COLUMNS": "200"})
    assert answer.returncode == 0, f"{command}: {answer.stderr}"
    for word in words:
        if word.startswith("--"):
            assert re.search(rf"{re.escape(word.split('=')[0])}\b", answer.stdout), f"{command}: no {word}"


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "TERM": "dumb", "NO_COLOR": "1", "HF_HUB_OFFLINE": "1"}
