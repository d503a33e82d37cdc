"""Points beside ours: who removes less, who changes the rest less, and what samples cannot tell."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusion.evaluation.bounds import mean_estimate
from diffusion.evaluation.sweep.across import across, against, compared, dearer, ends, frontier
from diffusion.evaluation.sweep.point import Figure, Point, Setting
from diffusion.runtime.documents import Estimate

BY = "kernel machine"


def point(method, left=0, kept=100, crossed=100, nats=2.0, error=0.1, failed=None, n=100):
    def counted(name, prompts, hits):
        return Figure(name=name, prompts=prompts, by=BY, estimate=Estimate(mean=hits / n, stderr=0.0, n=n))

    figures = (
        counted("target_share", "asked", left),
        counted("in_axis_accuracy", "retained", kept),
        counted("cross_axis_accuracy", "all", crossed),
        Figure(name="cost", prompts="retained", estimate=Estimate(mean=nats, stderr=error, n=4)),
    )
    setting = Setting(method=method, strength=1.0, max_train_steps=1, learning_rate=1.0, train_batch_size=1)
    return Point(
        task="t", concept="c", setting=setting, command="", failed=failed, figures=() if failed else figures
    )  # fmt: skip


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (point("a", left=40), "removes less"),
        (point("a", left=40, nats=0.1), "removes less"),
        (point("a", nats=2.1), "even"),  # two standard errors of the difference are .28
        (point("a", nats=3.0), "ours"),
        (point("a", kept=80), "ours"),
        (point("a", crossed=80), "ours"),
        (point("a", nats=1.0), "its own"),
        (point("a", kept=80, nats=1.0), "even"),  # better in one, worse in the other
        (point("a", left=4), "even"),  # 0 and 4 of 100 cannot be told apart
    ],
)
def test_who_is_better_at_equal_removal(other, expected):
    assert against(point("ours"), other, BY) == expected


def test_one_that_removes_more_is_not_beaten():
    ours = point("ours", left=30)
    assert against(ours, point("a", left=0, nats=3.0), BY) == "removes more"
    assert against(ours, point("a", left=0, kept=80, nats=1.0), BY) == "removes more"
    assert against(ours, point("a", left=0), BY) == "its own"


def test_the_best_point_of_a_method_meets_the_best_of_ours_that_removes_as_much():
    much, little = point("ours", left=0, nats=2.0), point("ours", left=30, nats=0.5)
    beaten, cheap = point("a", left=0, nats=9.0), point("a", left=30, nats=1.0)
    assert against(much, cheap, BY) == "removes less"
    assert against(little, cheap, BY) == "ours"
    assert against(little, beaten, BY) == "removes more"
    assert frontier([much, little], [beaten, cheap], BY) == "ours"
    assert frontier([much], [beaten, cheap], BY) == "ours"
    assert frontier([much], [cheap], BY) == "removes less"
    assert frontier([little], [beaten], BY) == "removes more"
    assert frontier([little], [beaten, cheap], BY) == "removes more"  # that it has a worse point is no merit of ours
    # One good point is enough for the other one, however bad its others are.
    assert frontier([much], [beaten, point("a", left=0, nats=1.0)], BY) == "its own"
    # That a cheaper point of ours removes less than it is no answer.
    assert frontier([much, little], [beaten, point("a", left=0, nats=1.0)], BY) == "its own"
    assert frontier([much, little], [beaten, point("a", left=30, nats=0.5)], BY) == "even"


def paid(method, values, **rest):
    found = mean_estimate(np.array(values))
    made = point(method, nats=found.mean, error=found.stderr, **rest)
    *others, cost = made.figures
    return made.model_copy(update={"figures": (*others, cost.model_copy(update={"values": tuple(values)}))})


def test_one_lost_chain_of_a_method_that_is_dearer_on_all_does_not_make_it_even():
    ours, theirs = [0.1, 0.2, 0.3, 0.2], [0.4, 0.5, 0.7, 9e5]
    by_means = point("a", nats=np.mean(theirs), error=mean_estimate(np.array(theirs)).stderr)
    assert against(point("ours", nats=0.2, error=0.04), by_means, BY) == "even"
    assert against(paid("ours", ours * 4), paid("a", theirs * 4), BY) == "ours"
    assert against(paid("ours", theirs * 4), paid("a", ours * 4), BY) == "its own"
    # By how many nats a chain is lost says nothing.
    assert against(paid("ours", [0.1, 9e5, 0.1, 0.1] * 4), paid("a", [0.1, 11.0, 0.1, 0.1] * 4), BY) == "even"
    # Chain by chain: the same difference everywhere is one, however far chains lie from each other.
    wide = np.linspace(0, 8, 16)
    assert against(paid("ours", wide), paid("a", wide + 0.1), BY) == "ours"
    assert against(paid("ours", wide), paid("a", np.roll(wide, 1)), BY) == "even"
    # Of a file without values there are means alone.
    assert dearer(paid("ours", [1.0, 2.0]), point("a", nats=2.0, error=0.0)) == pytest.approx((0.5, 0.5))


def test_a_cell_says_what_is_compared_where_chains_are_lost():
    lines = across({"neon": [paid("ours", [0.5, 0.5]), paid("uce", [1.0, 999.0])]}, BY)
    assert lines[2].endswith("/ 0.5 | 100.0 / 100.0 / 100.0 / 5e+02 (5.5) |")


def test_the_interval_is_exact():
    low, high = ends(Estimate(mean=0.0, stderr=0.0, n=96))
    assert low == 0
    assert high == pytest.approx(1 - 0.025 ** (1 / 96))


def test_tables_count_every_point_and_show_what_failed():
    tasks = {
        "a boot": [point("before"), point("ours"), point("uce", nats=3.0), point("leco", failed="no")],
        "neon": [point("ours", failed="no"), point("uce")],
    }
    assert [(one.method, one.verdict) for one in compared(tasks, BY)] == [("uce", "ours")]
    lines = across(tasks, BY)
    assert lines[0] == "| concept | ours | leco | uce |"
    assert lines[2] == "| a boot | 100.0 / 100.0 / 100.0 / 2 | failed | 100.0 / 100.0 / 100.0 / 3 |"
    assert lines[3].startswith("| neon | failed |  | 100.0")
    assert lines[-1] == "| uce | 0 | 1 | 0 | 0 | 0 |"
    assert lines[-2] == "| leco | 0 | 0 | 0 | 0 | 0 |"
