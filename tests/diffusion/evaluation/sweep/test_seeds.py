"""Several training seeds of one setting: what is a mean, what a seed does to it, and what no number of seeds shows."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusion.evaluation.sweep.across import LOST, across, against, compared
from diffusion.evaluation.sweep.seeds import Runs, dearer, half_width, runs_of
from duality.confidence import clopper_pearson
from tests.diffusion.evaluation.sweep.points import BY, paid, point

CHAINS = np.linspace(0.2, 0.4, 8)


def runs(method, chains, **rest):
    return Runs(tuple(paid(method, values, seed=seed, **rest) for seed, values in enumerate(chains)))


def test_seeds_of_one_setting_are_one_and_other_settings_are_others():
    stronger = point("a", seed=0)
    stronger = stronger.model_copy(update={"setting": stronger.setting.model_copy(update={"strength": 2.0})})
    points = [point("a", seed=0), point("a", seed=1), stronger, point("a", seed=2, failed="no"), point("b")]
    assert [(each.method, len(each.points)) for each in runs_of(points)] == [("a", 2), ("a", 1), ("b", 1)]


def test_seeds_make_no_image_more_of_an_interval():
    one, many = (Runs(tuple(point("a", left=5, seed=seed) for seed in range(count))) for count in (1, 7))
    assert one.ends("target_share", "asked", BY) == many.ends("target_share", "asked", BY)
    assert one.ends("target_share", "asked", BY)[1] == clopper_pearson(5, 100, 0.975)
    apart = Runs((point("a", left=2), point("a", left=8, seed=1)))
    assert apart.ends("target_share", "asked", BY) == one.ends("target_share", "asked", BY)


def test_a_difference_within_what_seeds_do_is_none():
    ours = runs("ours", [CHAINS, CHAINS, CHAINS])
    same = runs("a", [CHAINS + 0.1, CHAINS + 0.1, CHAINS + 0.1])
    apart = runs("a", [CHAINS + 0.5, CHAINS - 0.2, CHAINS])  # the same mean, by one seed alone
    assert dearer(ours, same, LOST) == pytest.approx((0.1, 0.0))
    assert dearer(ours, apart, LOST) == pytest.approx((0.1, np.std([0.5, -0.2, 0.0], ddof=1) / 3**0.5))
    assert against(ours, same, BY) == "ours"
    assert against(ours, apart, BY) == "even"
    assert against(same, ours, BY) == "its own"


def test_files_without_chains_are_compared_by_means_over_seeds():
    ours = Runs(tuple(point("ours", nats=nats, error=0.0, seed=seed) for seed, nats in enumerate((1.0, 3.0))))
    other = Runs((point("a", nats=5.0, error=0.3),))
    assert dearer(ours, other, LOST) == pytest.approx((3.0, (0.3**2 + 1.0) ** 0.5))


def test_a_cell_says_how_far_seeds_leave_it_open():
    points = [
        paid("ours", CHAINS, left=2),
        paid("ours", CHAINS + 0.2, left=4, seed=1),
        point("a", left=3, nats=0.5, error=0.01),
    ]
    lines = across({"neon": points}, BY)
    half = half_width([0.0, 0.2])
    assert half == pytest.approx(12.706 * 0.1, rel=1e-3)
    assert lines[2] == f"| neon | 97.0 ± {12.706:.1f} / 100.0 / 100.0 / 0.4 ± {half:.1g} | 97.0 / 100.0 / 100.0 / 0.5 |"
    assert [one.verdict for one in compared({"neon": points}, BY)] == ["even"]  # two seeds so far apart do not tell
    third = [paid("ours", CHAINS + 0.1, left=3, seed=seed) for seed in range(2, 9)]
    assert [one.verdict for one in compared({"neon": [*points, *third]}, BY)] == ["ours"]
