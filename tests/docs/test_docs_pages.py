"""Pages as files: links lead somewhere, commands exist, nothing points out of the project by accident."""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import lru_cache
from pathlib import Path
from unittest import mock

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if not {"_build", "gallery_built"} & set(page.parts))
COMMAND = re.compile(r"^(?:\$ )?(unlearn (?:[^\n\\]|\\\n)*)$", re.MULTILINE)


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
    for page in (DOCS.parent / "README.md", *PAGES):
        for block in re.findall(r"^```(?:console|bash|sh)\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S):
            found += [(page.stem, re.sub(r"\\\n", " ", one)) for one in COMMAND.findall(block)]
    return found


@lru_cache
def help_of(command: str) -> str:
    """What `unlearn COMMAND --help` prints, or why it does not."""
    from diffusion.cli import main as cli

    out, quiet = io.StringIO(), {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1", "HF_HUB_OFFLINE": "1"}
    asked = ["unlearn", *([command] if command else []), "--help"]
    patched = mock.patch.dict(os.environ, quiet), mock.patch.object(sys, "argv", asked)
    with patched[0], patched[1], redirect_stdout(out), redirect_stderr(out), pytest.raises(SystemExit) as ended:
        cli.main()
    return f"exit {ended.value.code}: {out.getvalue()}" if ended.value.code else out.getvalue()


COMMANDS = (
    "demo",
    "solve",
    "frontier",
    "verify",
    "explore",
    "ratios",
    "distill",
    "sample",
    "forget",
    "audit",
    "bench",
    "export",
    "recount",
)
# Options of launchers and of pip, which pages name beside ours.
FOREIGN = {"--multi_gpu", "--num_processes", "--cpu", "--mpirun_hostfile", "--nproc-per-node"}


def options_said(page: Path) -> set[str]:
    """Options of `unlearn` that a page names in its text, outside of blocks, and not as those of `python -m`."""
    text = re.sub(r"^```.*?^```$|`python -m [^`]*`", "", page.read_text("utf-8"), flags=re.M | re.S)
    return set(re.findall(r"`(--[a-z][a-z_-]+)", text)) - FOREIGN


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.parent.name == "how-to" and options_said(p)], ids=lambda p: p.stem
)
def test_options_in_the_text_are_those_of_a_command_that_the_page_is_about(page: Path) -> None:
    pytest.importorskip("typer")
    text = page.read_text("utf-8")
    about = [one for one in COMMANDS if re.search(rf"\b(?:unlearn|diffusion\.cli\.main) {one}\b", text)]
    known = {option for one in about for option in re.findall(r"--[a-z][a-z-]+", help_of(one))}
    assert options_said(page) <= known


@pytest.mark.parametrize(("page", "command"), commands())
def test_commands_exist_with_their_options(page: str, command: str) -> None:
    pytest.importorskip("typer")
    words = shlex.split(command, comments=True)[1:]
    named = words[0] if words and not words[0].startswith("-") else ""
    shown = help_of(named)
    assert not shown.startswith("exit "), f"{command}: {shown}"
    for word in words:
        if word.startswith("--"):
            assert re.search(rf"{re.escape(word.split('=')[0])}\b", shown), f"{command}: no {word}"
