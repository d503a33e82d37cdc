"""The explorer's state: links, bad entries, levels and entries, all without a browser."""

from __future__ import annotations

import base64
import json
import math
import zlib
from dataclasses import replace

import numpy as np
import pytest

import toy
from toy.explorer.compute import Engine
from toy.explorer.entries import entered
from toy.explorer.levels import Range, ranges
from toy.explorer.links import from_dict, from_example, from_link, names, to_dict, to_link
from toy.explorer.scenes import scene
from toy.explorer.state import (
    KINDS,
    LEVEL_KEYS,
    MOST_CONCEPTS,
    MOST_MODES,
    EntryError,
    State,
)

WORKED = from_example("worked")


def packed(text: str) -> str:
    return base64.urlsafe_b64encode(zlib.compress(text.encode())).decode().rstrip("=")


@pytest.mark.parametrize("name", list(toy.EXAMPLES))
def test_examples_keep_their_densities_and_links_restore_them(name: str) -> None:
    given, state = toy.example(name), replace(from_example(name), alpha_bar=0.37, section="compare", kept=0.2)
    assert from_link(to_link(state)) == state
    assert from_dict(json.loads(json.dumps(to_dict(state)))) == state
    assert len(to_link(state)) < 1000
    found = scene(state.modes)
    x = np.random.default_rng(0).normal(size=(50, 2)) * 3
    np.testing.assert_allclose(found.pretrained.log_prob(x), given.pretrained.log_prob(x), rtol=1e-9)
    for part, wanted in zip(found.unlearn, given.unlearn, strict=True):
        np.testing.assert_allclose(part.log_prob(x), wanted.log_prob(x), rtol=1e-9)
    if given.priors:
        np.testing.assert_allclose(found.priors, given.priors, rtol=1e-9)


@pytest.mark.parametrize(
    "link",
    [
        "nonsense!",
        "",
        to_link(WORKED)[:-10],
        packed("[]"),
        packed("{}"),
        packed("[" * 100_000),
        packed(json.dumps({**to_dict(WORKED), "modes": [[1, 2]]})),
        packed(json.dumps({**to_dict(WORKED), "modes": []})),
        packed(json.dumps({**to_dict(WORKED), "problem": "XX"})),
        packed(json.dumps({**to_dict(WORKED), "concept": 5})),
        packed(json.dumps({**to_dict(WORKED), "alpha_bar": "nan"})),
        packed(json.dumps({**to_dict(WORKED), "levels": {"RU": [1, 2]}})),
        packed(json.dumps({**to_dict(WORKED), "levels": {"<script>": [1]}})),
        packed(json.dumps({**to_dict(WORKED), "modes": [[0, 0, math.inf, 0, 1, 1, 1]]})),
        packed(json.dumps({**to_dict(WORKED), "modes": [[1e300, 0, 1, 0, 1, 1, 1]]})),
        packed(json.dumps({**to_dict(WORKED), "levels": {"RU": [math.nan]}})),
        packed(" " * 5_000_000),
        "A" * 30_000,
    ],
    ids=lambda text: text[:12] or "empty",
)
def test_broken_links_are_refused(link: str) -> None:
    with pytest.raises(EntryError, match=r"link|modes|problem|needed"):
        from_link(link)


@pytest.mark.parametrize(
    ("changes", "place", "message"),
    [
        ({"c12": 0.5}, "mode 1", "singular or indefinite"),
        ({"c12": 3.0}, "mode 1", "c12 must stay below c11 · c22"),
        ({"c11": 0.0}, "mode 1", "variances must be above 0"),
        ({"c22": -1.0}, "mode 1", "variances must be above 0"),
        ({"x": math.nan}, "mode 1", "finite"),
        ({"weight": -0.1}, "mode 1", "not be negative"),
        ({"shares": (0.0,)}, "concept 1", "has no mode"),
    ],
)
def test_bad_modes_explain_themselves(changes: dict[str, object], place: str, message: str) -> None:
    state = WORKED.with_mode(0, **changes)
    with pytest.raises(EntryError, match=message) as caught:
        scene(state.modes)
    assert caught.value.place == place
    view = Engine().view(state)
    assert view.answer is None
    assert view.errors == {place: str(caught.value)}


def test_q_needs_a_mode() -> None:
    state = WORKED
    for k in range(3):
        state = state.with_mode(k, weight=0.0)
    with pytest.raises(EntryError, match="q has no mode"):
        scene(state.modes)


def test_weights_are_relative_and_priors_the_largest_share() -> None:
    state = (
        WORKED.with_mode(0, weight=3.0, shares=(1.0,)).with_mode(1, weight=4.0, shares=(1.0,)).with_mode(2, weight=3.0)
    )
    found = scene(state.modes)
    np.testing.assert_allclose(found.pretrained.weights, [0.3, 0.4, 0.3])
    np.testing.assert_allclose(found.unlearn[0].weights, [0.5, 0.5])
    # pi q_1 <= q on both modes: pi/2 <= .3.
    assert found.priors == pytest.approx((0.6,))


def test_concepts_and_modes_come_and_go() -> None:
    three = WORKED.with_concepts(3)
    assert [mode.shares for mode in three.modes] == [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]
    assert three.with_concepts(1).modes == WORKED.modes
    assert three.levels == {}
    with pytest.raises(EntryError, match="1 to 4"):
        WORKED.with_concepts(MOST_CONCEPTS + 1)
    state = WORKED
    for _ in range(MOST_MODES - 3):
        state = state.with_new_mode()
    assert Engine().view(state, curves=False).answer is not None
    with pytest.raises(EntryError, match="1 to 8"):
        state.with_new_mode()
    assert state.without_mode(7).without_mode(6) == WORKED.with_new_mode().with_new_mode().with_new_mode()


def test_titles_name_the_examples() -> None:
    assert set(names().values()) == set(toy.EXAMPLES)


def test_ranges_go_from_little_to_much() -> None:
    board = Engine().view(WORKED, curves=False).board
    assert board is not None
    for key in LEVEL_KEYS:
        (one,) = ranges(key, board.ratios)
        assert one.level(0.0) == pytest.approx(one.little, rel=1e-3)
        assert one.level(1.0) == pytest.approx(one.much, rel=1e-3)
        for position in (0.1, 0.5, 0.93):
            assert one.position(one.level(position)) == pytest.approx(position, abs=0.01)
        assert one.position(10 * one.much - 9 * one.little if not one.log else one.much / 10) == 1.0
    # FU: the critical level of the worked mixture, 18.556, is inside, so that the slider goes beyond it.
    (forward,) = ranges("FU", board.ratios)
    assert forward.position(18.556) < 0.95
    assert Range(0.3, 1e-4, True).position(-1.0) == 1.0


def test_entries_change_what_they_name() -> None:
    view = Engine().view(WORKED, curves=False)

    def after(what: str, value: object, index: object = None) -> State:
        return entered(WORKED, view, 1, what, value, index).state

    assert after("problem", "RU").key == "RU"
    assert [after("kind", kind).key for kind in KINDS] == ["LU posterior", "LU density", "LU log-ratio"]
    assert after("level", 0.2, 0).levels["LU posterior"] == (0.2,)
    assert after("slider", 1.0, 0).levels["LU posterior"] == pytest.approx((3e-5,))
    assert after("entry", 2.5, "c11").modes[1].c11 == 2.5
    assert after("weight", 0.9).modes[1].weight == 0.9
    assert after("share", 0.7, 0).modes[1].shares == (0.7,)
    assert len(after("remove", True).modes) == 2
    assert after("draws", False) == WORKED
    assert after("start", "") == WORKED
    assert entered(WORKED, view, 1, "mode", 2).chosen == 2
    assert entered(WORKED, view, 1, "add", True).chosen == 3
    fresh = entered(WORKED, view, 1, "start", "several")
    assert fresh.afresh
    assert fresh.state.m == 3
    with pytest.raises(EntryError, match="empty"):
        after("level", None, 0)
    with pytest.raises(ValueError, match="what"):
        after("colour", 1)


def test_a_slider_means_nothing_while_the_modes_make_no_sense() -> None:
    broken = WORKED.with_mode(0, c11=-1.0)
    assert entered(broken, Engine().view(broken), 0, "slider", 0.5, 0).state == broken
