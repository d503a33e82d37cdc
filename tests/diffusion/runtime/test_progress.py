"""Plain lines where nobody watches a terminal; stages with their numbers."""

import io
import re

import pytest

from diffusion.runtime import progress
from diffusion.runtime.progress import EVERY, Lines, numbered, progress_bar


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_lines_have_the_time_and_say_what_is_left():
    out, clock = io.StringIO(), Clock()
    with Lines("training", 100, out, clock) as shown:
        for _ in range(10):
            clock.now += EVERY / 4
            shown.update(10)
    lines = out.getvalue().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)
    said = [line[9:] for line in lines]
    assert said[0] == "training (100)"
    assert said[1:3] == ["training: 40 of 100, about 45 s left", "training: 80 of 100, about 15 s left"]
    assert said[3:] == ["training: done in 75 s"]


def test_steps_beyond_the_total_are_said_to_be_further_ones():
    out, clock = io.StringIO(), Clock()
    with Lines("training", 100, out, clock) as shown:
        clock.now += EVERY
        shown.update(130)
    assert out.getvalue().splitlines()[1][9:] == "training: 100 of 100, and further ones"


def test_an_error_is_no_end():
    out = io.StringIO()
    with pytest.raises(KeyError), Lines("training", 3, out, Clock()):
        raise KeyError
    assert out.getvalue().splitlines()[-1].endswith("training: stopped after 0 s")


def test_no_bar_where_there_is_no_terminal(capsys, monkeypatch):
    with progress_bar("training", 2) as shown:
        shown.update(2)
    assert "\r" not in capsys.readouterr().err
    monkeypatch.setattr(progress, "is_main", lambda: False)
    with progress_bar("training", 2) as shown:
        shown.update(2)
    assert not capsys.readouterr().err


def test_stages_have_their_numbers_and_others_have_none():
    seen = []
    bar = numbered(lambda title, total: seen.append((title, total)), ["one", "two"])
    bar("two", 5)
    bar("more", 3)
    assert seen == [("2/2 two", 5), ("more", 3)]
