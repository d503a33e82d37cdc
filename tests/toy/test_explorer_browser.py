"""The explorer in headless Chromium: load, drag, every problem, wrong entries, restored links, downloads, keyboard."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("panel", reason="the page needs Panel: install unlearning-duality[explore]")
from explorer_visit import CHROMIUM, CORNER, WATCH, Visit, sync_api

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"no Chromium at {CHROMIUM}; set CHROMIUM to where it is"),
]


def test_it_loads_and_asks_nobody_else(visit: Visit) -> None:
    page = visit.open()
    visit.status("Solved")
    visit.status("0.31081 nats")
    assert page.title() == "Unlearning explorer"
    assert page.locator("h1").inner_text() == "What does it cost to unlearn?"
    assert page.locator("meta[name=viewport]").count() == 1
    page.wait_for_url(re.compile(r"\?view="))


def test_drag_a_mode_a_handle_and_another_mode(visit: Visit) -> None:
    visit.open()
    visit.status("0.31081 nats")
    visit.drag((-3, 0), (-1, 1.5))
    visit.value("x₁ of the mean", "-1")
    visit.value("x₂ of the mean", "1.5")
    visit.drag((3, 0), (2, -1))
    visit.value("Mode to edit", "3")
    visit.value("x₁ of the mean", "2")
    visit.value("variance c22", "0.5")
    visit.page.wait_for_timeout(500)
    # The handles at two standard deviations, sqrt(2) away; the upper one twice as far.
    visit.drag((2, -1 + 2**0.5), (2, -1 + 2 * 2**0.5))
    visit.value("variance c11", "0.5")
    sync_api.expect(visit.page.get_by_label("variance c22")).to_have_value(re.compile(r"^(1\.9|2|2\.0)"))
    # The first mode stayed where it was.
    visit.page.get_by_label("Mode to edit").select_option("1")
    visit.value("x₁ of the mean", "-1")


def test_while_dragging_the_answer_is_already_new(visit: Visit) -> None:
    visit.open()
    visit.status("0.31081 nats")
    x, y = visit.where(-3, 0)
    end = visit.where(-2, 0.5)
    visit.page.mouse.move(x, y)
    visit.page.mouse.down()
    visit.page.mouse.move(*end, steps=6)
    visit.page.wait_for_timeout(300)
    visit.page.mouse.move(end[0] + 2, end[1], steps=2)
    sync_api.expect(visit.page.get_by_label("x₁ of the mean")).not_to_have_value("-3")
    visit.page.mouse.up()


def test_every_problem(visit: Visit) -> None:
    page = visit.open()
    for label, words in (
        ("Reverse KL", "KL(p‖q1) = 30"),
        ("Forward KL", "KL(q1‖p) = 4"),
        ("Likelihood", "Pr(1|x) = 0.01"),
    ):
        page.get_by_role("button", name=label).click()
        visit.status(words)
    for kind, words in (("density, qᵢ(x)", "q1(x)"), ("log ratio, log qᵢ/q", "log q1/q")):
        page.get_by_label("Likelihood", exact=True).select_option(kind)
        visit.status(words)
    page.get_by_role("button", name="Forward KL").click()
    visit.status("KL(q1‖p)")
    visit.type(re.compile("^b₁:"), "19.5")
    visit.status("Not attained")
    visit.type(re.compile("^b₁:"), "0.5")
    visit.status("Inactive")
    page.get_by_label("Start from").select_option("Three of six modes to go")
    visit.status("KL(q3‖p) = 4")
    page.get_by_label("Curves along concept").select_option("3")
    sync_api.expect(page.get_by_text("at b3 = 4")).to_be_visible()


def test_wrong_entries_explain_themselves_in_place(visit: Visit) -> None:
    page = visit.open()
    visit.type("covariance c12", "5")
    visit.status("No answer")
    sync_api.expect(page.locator(".wrong")).to_contain_text("5² = 25 and 0.5 · 0.5 = 0.25")
    box, entry = page.locator(".wrong").bounding_box(), page.get_by_label("covariance c12").bounding_box()
    assert 0 < box["y"] - entry["y"] < 100
    visit.type("covariance c12", "0")
    visit.status("Solved")
    sync_api.expect(page.locator(".wrong")).to_have_count(0)
    visit.type(re.compile("^b₁:"), "-0.5")
    visit.status("between 0 and 1")
    sync_api.expect(page.locator(".wrong")).to_contain_text("ask for more than 0")
    sync_api.expect(page.get_by_role("button", name="Figure, PNG")).to_be_disabled()


def test_it_says_that_it_is_busy(visit: Visit) -> None:
    """Within a few frames of the entry, while the answer is still being computed, and no longer than that."""
    page = visit.open()
    visit.status("0.31081 nats")
    busy = page.locator(".busy").get_by_text("Solving")
    sync_api.expect(busy).to_be_hidden()
    page.evaluate(WATCH)
    page.get_by_label("Start from").select_option("Three of six modes to go")
    visit.status("Pr(3|x)")
    sync_api.expect(busy).to_be_hidden()
    seen = page.evaluate("window.seen")
    assert [True, False] in seen  # busy, and still the old answer
    assert seen[-1] == [False, True]


def test_refused_entries_say_why_and_are_put_back(visit: Visit) -> None:
    page = visit.open()
    visit.type("x₁ of the mean", "1e999")
    sync_api.expect(page.locator(".wrong")).to_contain_text("a finite number of at most 1,000,000,000 in size")
    visit.value("x₁ of the mean", "-3")
    visit.type("x₁ of the mean", "")
    sync_api.expect(page.locator(".wrong")).to_contain_text("x₁ of the mean: the entry is empty")
    visit.value("x₁ of the mean", "-3")
    page.get_by_role("button", name="Noise").click()
    level = page.get_by_role("textbox", name="Noise level")
    level.fill("5")
    level.press("Enter")
    sync_api.expect(page.locator("#noise .wrong")).to_contain_text("at most 1 is needed, given 5")
    visit.status("Solved")


def test_prompts_and_what_is_kept(visit: Visit) -> None:
    page = visit.open()
    slider = page.get_by_role("slider", name="Prompt that is shown")
    sync_api.expect(slider).to_be_hidden()
    page.get_by_label("Laws that depend on a prompt").check()
    visit.status("Ec Ep Pr(1|x) = 0.01")
    sync_api.expect(page.get_by_text("1, shown")).to_be_visible()
    slider.focus()
    page.keyboard.press("ArrowRight")
    sync_api.expect(page.get_by_text("2, shown")).to_be_visible()
    page.get_by_label("Mode to edit").select_option("2")
    keep = page.get_by_role("textbox", name="Keep at least")
    keep.fill("140")
    keep.press("Enter")
    sync_api.expect(page.get_by_text("Keeping mode 2 costs")).to_be_visible()
    keep.fill("300")
    keep.press("Enter")
    visit.status("keeping mode 2")
    sync_api.expect(page.locator(".wrong")).to_contain_text("No density does this")
    keep.fill("-1")
    keep.press("Enter")
    sync_api.expect(page.locator(".wrong")).to_contain_text("must not be negative, given -1 %")


def test_the_address_restores_the_view(visit: Visit) -> None:
    page = visit.open()
    page.get_by_role("button", name="Reverse KL").click()
    visit.type("x₁ of the mean", "-2.5")
    visit.type(re.compile("^b₁:"), "21")
    page.get_by_role("button", name="Compare").click()
    visit.status("KL(p‖q1) = 21")
    sync_api.expect(page.locator("#compare")).to_be_visible()  # it opens when the address is written
    said, query = page.locator(".status").inner_text(), "?" + urlsplit(page.url).query
    assert page.get_by_role("link", name="Link to this view").get_attribute("href") == query
    visit.open(query)
    assert page.locator(".status").inner_text() == said
    visit.value("x₁ of the mean", "-2.5")
    sync_api.expect(page.locator("#compare")).to_be_visible()
    sync_api.expect(page.locator("#target")).to_be_hidden()
    visit.open("?view=broken")
    sync_api.expect(page.locator(".wrong")).to_contain_text("cut or changed")


def test_noise_and_play(visit: Visit) -> None:
    page = visit.open()
    page.get_by_role("button", name="Noise").click()
    sync_api.expect(page.locator("strong", has_text="LU: two-valued closure")).to_be_visible()
    sync_api.expect(page.get_by_text("Press play")).to_be_visible()
    page.locator("#noise").get_by_role("button", name="Play", exact=True).click()
    sync_api.expect(page.get_by_text("Draws that show the concept")).to_be_visible()


def test_nothing_is_left_at_the_edge_of_a_plot(visit: Visit) -> None:
    """A canvas that is cleared half a pixel off once left bits of its first labels in the first column."""
    image = pytest.importorskip("matplotlib.image")
    page = visit.open()
    page.get_by_role("button", name="Noise").click()
    sync_api.expect(page.get_by_text("Press play")).to_be_visible()
    page.wait_for_timeout(1500)
    for name in ("Exact reverse process", "Guided reverse process"):
        left, top = page.evaluate(CORNER, name)
        shot = page.screenshot(full_page=True, clip={"x": left, "y": top + 2, "width": 1, "height": 300})
        assert image.imread(io.BytesIO(shot), format="png")[..., :3].min() > 0.98


def test_compare_three_problems(visit: Visit) -> None:
    page = visit.open()
    page.get_by_role("button", name="Compare").click()
    for name in ("RU", "FU", "LU"):
        sync_api.expect(page.locator("#compare").get_by_text(f"{name}: 5 % left")).to_be_visible()


def test_downloads(visit: Visit, tmp_path: Path) -> None:
    page = visit.open()
    contents = {}
    for label in ("Figure, PNG", "Figure, SVG", "Numbers, JSON", "Python"):
        with page.expect_download() as waiting:
            page.get_by_role("button", name=label).or_(page.get_by_role("link", name=label)).first.click()
        waiting.value.save_as(tmp_path / label)
        contents[label] = (tmp_path / label).read_bytes()
    assert contents["Figure, PNG"].startswith(b"\x89PNG")
    assert b"<svg" in contents["Figure, SVG"]
    assert json.loads(contents["Numbers, JSON"])["solution"]["multipliers"][0] == pytest.approx(3.789455, rel=1e-6)
    run = subprocess.run(
        [sys.executable, "-c", contents["Python"].decode()], capture_output=True, text=True, check=True
    )
    assert "3.789" in run.stdout


def test_by_keyboard(visit: Visit) -> None:
    page = visit.open()
    page.get_by_label("Start from").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the second problem
    visit.status("KL(q1‖p)")
    before = page.get_by_label(re.compile("^b₁:")).input_value()
    page.get_by_role("slider").first.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    sync_api.expect(page.get_by_label(re.compile("^b₁:"))).not_to_have_value(before)
    page.get_by_label("x₁ of the mean").focus()
    page.keyboard.press("ArrowUp")
    visit.value("x₁ of the mean", "-2.9")


# Everything that can be operated and is seen, with the name that a screen reader has for it.
NAMES = """() => {
  const found = [];
  const visit = (root) => {
    for (const one of root.querySelectorAll('*')) {
      if (one.matches('.noUi-handle, input, select, button') && one.checkVisibility()) {
        const label = one.labels?.length > 0 ? one.labels[0].textContent : '';
        found.push([one.tagName, one.getAttribute('aria-label') || label || one.textContent.trim() || one.title]);
      }
      if (one.shadowRoot) visit(one.shadowRoot);
    }
  };
  visit(document);
  return found;
}"""


def test_everything_has_a_name_of_its_own(visit: Visit) -> None:
    page = visit.open()
    page.get_by_role("button", name="Forward KL").click()
    visit.status("KL(q1‖p)")
    sync_api.expect(page.get_by_role("slider", name="b₁ from little to much")).to_be_visible()
    sync_api.expect(page.get_by_role("slider", name="Weight in q")).to_be_visible()
    sync_api.expect(page.get_by_role("checkbox", name="Show draws")).to_be_visible()
    for section in ("Noise", "Compare"):
        page.get_by_role("button", name=section).click()
        sync_api.expect(page.locator(f"#{section.lower()}")).to_be_visible()
        found = [(tag, name) for tag, name in page.evaluate(NAMES) if name not in ("more", "less")]
        assert len(found) > 25
        assert all(name for _, name in found), found
        assert len(set(found)) == len(found), found


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out(browser: Any, address: str, width: int) -> None:
    visit = Visit(browser, address, width)
    page = visit.open()
    page.get_by_label("Start from").select_option("Three of six modes to go")
    visit.status("Pr(3|x)")
    for section in ("Target", "Noise", "Compare"):
        page.get_by_role("button", name=section).click()
        sync_api.expect(page.locator(f"#{section.lower()}")).to_be_visible()
        page.wait_for_timeout(1500)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        if os.environ.get("EXPLORER_SHOTS"):
            page.screenshot(path=f"{os.environ['EXPLORER_SHOTS']}/{section}-{width}.png", full_page=True)
    visit.context.close()
    assert visit.complaints == []
