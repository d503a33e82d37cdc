"""The explorer served, and a browser that visits it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from explorer_visit import Visit


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The page, served by a process of its own on a free port."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "toy.explorer", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found is not None
        yield found[0]
        server.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from explorer_visit import ARGUMENTS, CHROMIUM, sync_api

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Visit]:
    from explorer_visit import Visit

    visit = Visit(browser, address)
    yield visit
    visit.context.close()
    assert visit.complaints == []
    assert visit.hosts == {"localhost"}
