"""A visit to the explorer by a browser: where things are, what is pressed and what is said."""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import urlsplit

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
# Generous: browser and server may share two cores with much else.
PATIENCE_MS = 120_000
sync_api.expect.set_options(timeout=PATIENCE_MS)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PLANE = "Densities: drag the numbered modes"
READY = "() => window.Bokeh && Bokeh.documents.length > 0 && Bokeh.documents[0].is_idle"
# Where a point of the plane is on the screen.
WHERE = """([name, x, y]) => {
  const view = Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name(name));
  const box = view.el.getBoundingClientRect();
  return [box.left + view.frame.x_scale.compute(x), box.top + view.frame.y_scale.compute(y)];
}"""
# What is seen from frame to frame: the sign of work, and the answer to the example of six modes.
WATCH = """() => {
  window.seen = [];
  const busy = document.querySelector('.busy');
  const answered = (root) => [...root.querySelectorAll('*')].some(
    (one) => one.shadowRoot ? answered(one.shadowRoot) : one.matches('.status') && one.textContent.includes('Pr(3|x)'));
  const look = () => {
    window.seen.push([busy.getBoundingClientRect().height > 0, answered(document)]);
    requestAnimationFrame(look);
  };
  look();
}"""
# The upper left corner of a figure in the whole page.
CORNER = """(name) => {
  const box = Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name(name)).el.getBoundingClientRect();
  return [box.left + window.scrollX, box.top + window.scrollY];
}"""


class Visit:
    """One visitor: a page, what it complained about and whom it asked."""

    def __init__(self, browser: Any, address: str, width: int = 1280) -> None:
        self.address = address
        self.context = browser.new_context(viewport={"width": width, "height": 900}, accept_downloads=True)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", lambda m: m.type == "error" and self.complaints.append(m.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        for kind in ("request", "websocket"):
            self.page.on(kind, lambda request: self._asked(request.url))

    def _asked(self, url: str) -> None:
        address = urlsplit(url)
        if address.scheme not in ("data", "blob", "about"):  # these stay inside the browser
            self.hosts.add(address.hostname or url)

    def open(self, query: str = "") -> Any:
        self.page.goto(self.address + query)
        self.page.wait_for_function(READY)
        self.page.locator(".status").wait_for()
        return self.page

    def status(self, text: str) -> None:
        """Wait until the status says so."""
        sync_api.expect(self.page.locator(".status")).to_contain_text(text)

    def value(self, label: str, text: str) -> None:
        """Wait until an entry holds that text."""
        sync_api.expect(self.page.get_by_label(label)).to_have_value(text)

    def type(self, label: str | re.Pattern[str], text: str) -> None:
        entry = self.page.get_by_label(label)
        entry.fill(text)
        entry.press("Enter")

    def where(self, x: float, y: float) -> tuple[float, float]:
        left, top = self.page.evaluate(WHERE, [PLANE, x, y])
        return left, top

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        (x0, y0), (x1, y1) = self.where(*start), self.where(*end)
        self.page.mouse.move(x0, y0)
        self.page.mouse.down()
        self.page.mouse.move(x1, y1, steps=8)
        self.page.mouse.up()
