"""Laws that depend on a prompt, and modes that are to be kept, in the explorer."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import duality as du
import toy
from toy.explorer.compute import Engine
from toy.explorer.export import numbers
from toy.explorer.links import from_dict, from_example, from_link, to_dict, to_link
from toy.explorer.noise import chains, noise_view, rules
from toy.explorer.script import python_lines
from toy.explorer.shapes import Window
from toy.explorer.state import KINDS, PROBLEMS, PROMPTS, EntryError, State
from toy.explorer.views import View
from toy.explorer.words import certificate_html, status_html

WORKED = from_example("worked")
PROMPTED = WORKED.with_prompts(True)
KEPT = WORKED.with_mode(1, keep=1.6)  # unlearning alone leaves 1.41 of what q has of it
CHOICES = [(problem, kind) for problem in PROBLEMS for kind in (KINDS if problem == "LU" else KINDS[:1])]


def viewed(state: State) -> View:
    view = Engine().view(state)
    assert view.answer is not None, view.errors
    assert view.solution is not None
    return view


@pytest.mark.parametrize("state", [PROMPTED, KEPT, PROMPTED.with_mode(2, keep=1.3)], ids=["prompts", "keep", "both"])
@pytest.mark.parametrize(("problem", "kind"), CHOICES)
def test_a_view_solves_what_its_python_lines_solve(problem: str, kind: str, state: State) -> None:
    view = viewed(replace(state, problem=problem, kind=kind))
    found: dict[str, object] = {}
    exec(python_lines(view.state, view.levels).replace("print", "str"), found)
    other, solution = found["solution"], view.solution
    assert isinstance(other, du.Solution)
    assert solution is not None
    assert solution.status is other.status is du.Status.OPTIMAL
    assert solution.primal == pytest.approx(other.primal, rel=1e-7)
    np.testing.assert_allclose(solution.multipliers, other.multipliers, rtol=1e-5, atol=1e-8)
    # The curves live on the coarse sub-lattice and between solved points, as they do without prompts.
    assert view.dual is not None
    assert view.frontier is not None
    assert view.dual.y.max() == pytest.approx(solution.dual, abs=1e-3)
    assert np.all(view.dual.x <= view.end * (1 + 1e-12))
    assert np.interp(view.levels[0], view.frontier.x, view.frontier.y) == pytest.approx(solution.dual, abs=3e-3)


def test_levels_and_costs_are_means_over_prompts() -> None:
    view = viewed(PROMPTED)
    assert view.whole is not None
    assert len(view.whole.answers) == PROMPTS
    assert view.whole.shown.mean() == pytest.approx(0.01, rel=1e-8)
    assert view.whole.costs.mean() == pytest.approx(view.whole.solution.primal, rel=1e-9)
    # The concept fades from 0.3 to 0.03/0.73: what still shows it does as well, and each costs less than the last.
    assert np.all(np.diff(view.whole.shown[:, 0]) < 0)
    assert np.all(np.diff(view.whole.costs) < 0)
    given = toy.PromptedMixture(
        [answer.pretrained.weights for answer in view.whole.answers], view.answer.pretrained.means, 0.5
    )
    other = toy.solve_prompted(du.Likelihood(0.01, kind="detector"), given, [0])
    assert view.whole.solution.primal == pytest.approx(other.solution.primal, rel=1e-7)
    np.testing.assert_allclose(view.whole.shown, other.shown, rtol=1e-5)  # each grid is good to 1e-8 in all


def test_the_slider_looks_at_another_prompt_and_solves_nothing() -> None:
    engine = Engine()
    first = engine.view(PROMPTED)
    last = engine.view(replace(PROMPTED, prompt=PROMPTS - 1))
    assert last.solution is first.solution
    assert first.answer is not None
    assert last.answer is not None
    assert first.answer.pretrained.weights[0] == pytest.approx(0.3)
    assert last.answer.pretrained.weights[0] == pytest.approx(0.03 / 0.73)
    for view in (first, last):
        answer = view.answer
        masses = np.exp(answer.log_target(answer.nodes.points)) * np.prod([a[1] - a[0] for a in answer.nodes.axes])
        np.testing.assert_allclose(masses, np.exp(answer.solution.log_weights), atol=1e-9)
    assert "<strong>5, shown</strong>" in certificate_html(last)
    assert "E<sub>c</sub> E<sub>p</sub> Pr(1|x)" in status_html(last)


def test_without_a_difference_between_prompts_nothing_changes() -> None:
    same = replace(WORKED, modes=tuple(replace(mode, other=mode.weight) for mode in WORKED.modes), prompts=True)
    alone, view = viewed(WORKED), viewed(same)
    assert view.solution.primal == pytest.approx(alone.solution.primal, rel=1e-9)
    assert view.solution.multipliers[0] == pytest.approx(alone.solution.multipliers[0], rel=1e-9)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_what_keeping_costs(problem: str) -> None:
    """A mode kept beyond what unlearning leaves of it costs, by the difference of two solutions; one below does not."""
    state = replace(KEPT, problem=problem)
    free, held = viewed(state.with_mode(1, keep=0.0)), viewed(state)
    assert held.whole is not None
    (one,) = held.whole.kept
    assert one.multiplier > 0.01
    assert one.cost == pytest.approx(held.solution.dual - free.solution.dual, rel=1e-9)
    assert one.cost == held.whole.together > 0.005
    reached = float(held.solution.levels[1])
    if problem == "FU":
        rho = held.board.all_ratios.values[:, 1]
        own = (np.exp(rho + held.board.ratios.log_weights) * rho).sum()  # KL(mode‖q)
        assert reached == pytest.approx(own - np.log(1.6), rel=1e-8)
    else:
        assert reached == pytest.approx(1.6 * 0.4, rel=1e-6)
    assert f"Keeping mode 2 costs</dt><dd>{one.cost:.4g} nats" in certificate_html(held)
    idle = viewed(state.with_mode(1, keep=0.4))
    assert idle.whole.kept[0].multiplier == idle.whole.kept[0].cost == 0
    assert "Kept for nothing, with multiplier 0: mode 2" in status_html(idle)
    data = json.loads(numbers(held), parse_constant=lambda word: pytest.fail(word))
    assert data["keeping"] == [{"mode": 2, "multiplier": one.multiplier, "cost": one.cost}]


def test_two_that_are_kept_cost_more_than_either() -> None:
    view = viewed(replace(WORKED, problem="RU").with_mode(1, keep=1.2).with_mode(2, keep=1.3))
    assert view.whole is not None
    costs = [one.cost for one in view.whole.kept]
    assert view.whole.together >= max(costs) > 0
    assert "Keeping all of these costs" in certificate_html(view)


def test_what_cannot_be_kept_together_is_named() -> None:
    view = Engine().view(WORKED.with_mode(1, keep=1.6).with_mode(2, keep=1.5))
    assert view.solution is None
    text = view.errors["level"]
    assert text.startswith("These cannot be had together: keeping mode 2 and keeping mode 3.")
    assert "% of mode 2" in text
    own = Engine().view(WORKED.with_mode(0, keep=0.5))  # what is to be unlearned is not to be kept
    assert own.errors["level"].startswith("These cannot be had together: the level and keeping mode 1.")
    beyond = Engine().view(WORKED.with_mode(1, keep=3.0))
    assert "keeping mode 2" in beyond.errors["level"]
    forward = Engine().view(replace(WORKED, problem="FU").with_mode(1, keep=30.0))
    assert forward.errors
    assert "nan" not in status_html(forward)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_noise_under_a_prompt_with_something_kept(problem: str) -> None:
    state = replace(PROMPTED, problem=problem, prompt=2).with_mode(2, keep=1.4)
    view = viewed(state)
    found = noise_view(replace(view, state=replace(state, alpha_bar=0.6)), Window(0.0, 1.5, 5.0))
    first = found.rules[0]
    assert "keep" in first.name
    # Exact for FU; the closure of what is nearly two-valued; RU's constant strength is wrong at every noise level.
    assert first.rms < {"FU": 1e-3, "LU": 0.2, "RU": 0.6}[problem] * found.correction
    played = chains(view, first.name, np.random.default_rng(0), n=400)
    rho = view.answer.log_ratio(played.exact[-1])[:, :1]
    prior = view.board.scene.priors[0]
    shown = prior * np.exp(rho)
    error = shown.std() / np.sqrt(len(shown))
    assert abs(shown.mean() - view.whole.shown[2, 0]) < 4 * error + 0.01  # 48 steps are not the end of the schedule
    assert list(rules(view.answer))[-1] == "no guidance"


def test_what_q_lacks_cannot_be_kept_and_far_modes_overflow_nothing() -> None:
    """Posteriors of what q has none of, and log ratios beyond what doubles hold: each is refused or answered."""
    lacking = replace(WORKED, problem="RU").with_mode(2, weight=0.0, keep=0.5)
    assert Engine().view(lacking).errors == {"mode 3": "mode 3: q has none of it, so there is nothing to keep"}
    far = PROMPTED.with_mode(0, weight=0.0, other=0.2).with_mode(1, weight=0.0, other=0.1, x=12.0)
    for problem in PROBLEMS:
        view = Engine().view(replace(far.with_mode(2, keep=0.3), problem=problem))
        assert view.solution is not None or view.errors
        assert "nan" not in status_html(view) + certificate_html(view)


def test_a_grid_that_this_page_cannot_afford_is_said_in_its_own_words() -> None:
    narrow = replace(PROMPTED, problem="RU").with_mode(0, c11=0.004, c22=0.004).with_mode(2, x=9.0)
    (text,) = Engine().view(narrow).errors.values()
    assert "that this page can afford" in text or "too narrow" in text


def test_bad_entries_name_their_mode() -> None:
    for change, words in (
        ({"keep": -0.1}, "kept of it must not be negative"),
        ({"other": -1.0}, "weights must not be"),
    ):
        view = Engine().view(PROMPTED.with_mode(1, **change))
        assert words in view.errors["mode 2"]
    emptied = replace(PROMPTED, modes=tuple(replace(mode, other=0.0) for mode in PROMPTED.modes))
    assert "under prompt 5" in Engine().view(emptied).errors["problem"]
    with pytest.raises(EntryError, match="prompt: 1 to 5 is needed, given 6"):
        replace(PROMPTED, prompt=5)


def test_links_hold_prompts_and_what_is_kept_and_those_of_before_still_open() -> None:
    state = replace(PROMPTED.with_mode(1, keep=0.9), prompt=3)
    assert from_link(to_link(state)) == state
    assert state.keeping == (1,)
    before = to_dict(WORKED)
    assert not {"others", "keep"} & before.keys()
    assert from_dict({name: value for name, value in before.items() if name not in ("prompts", "prompt")}) == WORKED
    for change in ({"keep": [0.5]}, {"others": [None]}, {"keep": ["x", 0, 0]}, {"keep": [1e300, 0, 0]}, {"prompt": 9}):
        with pytest.raises(EntryError):
            from_dict({**to_dict(state), **change})
    off = state.with_prompts(False)
    assert off.prompt == 0
    assert off.with_prompts(True).modes == state.modes  # turned on again, the weights are those of before


def test_the_page_shows_and_takes_them() -> None:
    pytest.importorskip("panel", reason="the page needs Panel: install unlearning-duality[explore]")
    from toy.explorer.page import Page

    page = Page()
    controls, settings = page.controls, page.controls.settings()

    def seen() -> list[str]:
        return [one.label for one in settings.select() if getattr(one, "label", "") and one.visible]

    assert "Weight under the last prompt" not in seen()
    controls.prompts = True
    assert page.state.prompts
    assert {"Weight under the last prompt", "Weight under the first prompt", "Prompt that is shown, of 5"} <= set(
        seen()
    )
    assert "E<sub>c</sub>" in page.status.object
    solution = page.view.solution
    controls.prompt = 4
    assert page.state.prompt == 3
    assert page.view.solution is solution
    assert "<strong>4, shown</strong>" in page.certificate.object
    controls.other = 0.2
    assert page.state.modes[0].other == 0.2
    controls.mode = 1
    controls.keep = 145.0
    assert page.state.modes[1].keep == pytest.approx(1.45)
    assert "Keeping mode 2 costs" in page.certificate.object
    for name, value, reason in (("keep", None, "kept of this mode: the entry is empty"), ("other", 1e308, "finite")):
        before = page.state
        setattr(controls, name, value)
        assert page.state == before
        assert reason in controls.mode_wrong.object
    controls.keep = -5.0
    assert "must not be negative, given -5 %" in controls.mode_wrong.object
    controls.keep = 300.0
    assert "keeping mode 2" in controls.level_wrong.object
    assert "No answer" in page.status.object
    controls.keep = 0.0
    controls.section = "compare"
    assert "Under prompt 4 alone" in page.compared.wrong.object
    controls.prompts = False
    assert page.compared.wrong.object == ""
    assert "E<sub>c</sub>" not in page.status.object
    assert "Weight in q" in seen()
