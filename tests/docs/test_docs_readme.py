"""The README keeps its word: its example prints what it says, its commands exist, its links lead somewhere."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def test_the_example_gives_what_its_comments_say() -> None:
    code, _ = re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S)
    said, names = io.StringIO(), {}
    with contextlib.redirect_stdout(said):
        exec(code, names)
    multiplier, cost = re.findall(r"multiplier ([\d.]+), cost ([\d.]+) nats", code)[0]
    assert multiplier in said.getvalue()
    assert cost in said.getvalue()
    solution, ratios = names["s"], names["ratios"]
    assert solution.gap < 1e-10
    # "at most 1 % of what is generated may show it": so it is, and the strengths have the shape that is claimed.
    shown = np.exp(solution.log_weights) @ (0.3 * np.exp(ratios.values[:, 0]))
    assert shown == pytest.approx(0.01, rel=1e-6)
    assert solution.guidance(ratios.values).shape == ratios.values.shape


def test_the_example_for_a_pipeline_calls_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusion

    called = {}
    wanted = inspect.signature(diffusion.unlearn)

    def unlearn(*words: object, **more: object) -> MagicMock:
        called.update(wanted.bind(*words, **more).arguments)
        return MagicMock()

    monkeypatch.setattr(diffusion, "unlearn", unlearn)
    _, code = re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S)
    assert len([line for line in code.splitlines() if line]) <= 6
    exec(code, {"pipeline": None})
    assert called["task"].concepts[0].prompts == ("a tench", "a photo of a tench")
    assert str(called["task"].asked) == "likelihood 0.01"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.M)):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_links_and_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
    for name in re.findall(r"`([\w./-]+(?:/|\.md|\.cff|\.txt|\.py))`", README):
        if not name.startswith("out/"):
            assert (ROOT / name).exists(), name


def test_extras_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    for extras in re.findall(r"\[([a-z,]+)\]\"", README):
        for extra in extras.split(","):
            assert re.search(rf"^{extra} = \[", project, re.M), extra
