"""Points beside ours: who removes less, who changes the rest less, and what samples cannot tell."""

import numpy as np
import pytest

from tests.diffusion.evaluation.sweep.points import BY, paid, point

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusion.evaluation.bounds import mean_estimate
from diffusion.evaluation.sweep import across as module
from diffusion.evaluation.sweep.across import LOST, across, compared
from diffusion.evaluation.sweep.seeds import Runs, dearer


def against(ours, other):
    return module.against(Runs((ours,)), Runs((other,)), BY)


def frontier(ours, others):
    return module.frontier(*([Runs((each,)) for each in some] for some in (ours, others)), BY)


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
    assert against(point("ours"), other) == expected


def test_one_that_removes_more_is_not_beaten():
    ours = point("ours", left=30)
    assert against(ours, point("a", left=0, nats=3.0)) == "removes more"
    assert against(ours, point("a", left=0, kept=80, nats=1.0)) == "removes more"
    assert against(ours, point("a", left=0)) == "its own"


def test_the_best_point_of_a_method_meets_the_best_of_ours_that_removes_as_much():
    much, little = point("ours", left=0, nats=2.0), point("ours", left=30, nats=0.5)
    beaten, cheap = point("a", left=0, nats=9.0), point("a", left=30, nats=1.0)
    assert against(much, cheap) == "removes less"
    assert against(little, cheap) == "ours"
    assert against(little, beaten) == "removes more"
    assert frontier([much, little], [beaten, cheap]) == ("ours", False)
    assert frontier([much], [beaten, cheap]) == ("ours", False)
    assert frontier([much], [cheap]) == ("removes less", False)
    # One good point is enough for the other one, however bad its others are.
    assert frontier([much], [beaten, point("a", left=0, nats=1.0)]) == ("its own", False)
    # That a cheaper point of ours removes less than it is no answer.
    assert frontier([much, little], [beaten, point("a", left=0, nats=1.0)]) == ("its own", False)
    assert frontier([much, little], [beaten, point("a", left=30, nats=0.5)]) == ("even", False)


def test_what_is_compared_is_what_removes_as_much_and_what_removes_more_is_counted_beside_it():
    little = point("ours", left=30, nats=0.5)
    beaten, cheap, less = (point("a", left=left, nats=nats) for left, nats in ((0, 9.0), (30, 1.0), (60, 0.1)))
    assert frontier([little], [beaten]) == ("removes more", True)
    assert frontier([little], [beaten, less]) == ("removes more", True)
    assert frontier([little], [beaten, cheap]) == ("ours", True)
    assert frontier([little], [beaten, point("a", left=30, nats=0.1)]) == ("its own", True)
    assert frontier([little], [cheap, point("a", left=0, nats=0.5)]) == ("its own", False)


def test_one_lost_chain_of_a_method_that_is_dearer_on_all_does_not_make_it_even():
    ours, theirs = [0.1, 0.2, 0.3, 0.2], [0.4, 0.5, 0.7, 9e5]
    by_means = point("a", nats=np.mean(theirs), error=mean_estimate(np.array(theirs)).stderr)
    assert against(point("ours", nats=0.2, error=0.04), by_means) == "even"
    assert against(paid("ours", ours * 4), paid("a", theirs * 4)) == "ours"
    assert against(paid("ours", theirs * 4), paid("a", ours * 4)) == "its own"
    # By how many nats a chain is lost says nothing.
    assert against(paid("ours", [0.1, 9e5, 0.1, 0.1] * 4), paid("a", [0.1, 11.0, 0.1, 0.1] * 4)) == "even"
    # Chain by chain: the same difference everywhere is one, however far chains lie from each other.
    wide = np.linspace(0, 8, 16)
    assert against(paid("ours", wide), paid("a", wide + 0.1)) == "ours"
    assert against(paid("ours", wide), paid("a", np.roll(wide, 1))) == "even"
    # Of a file without values there are means alone.
    mine, theirs = Runs((paid("ours", [1.0, 2.0]),)), Runs((point("a", nats=2.0, error=0.0),))
    assert dearer(mine, theirs, LOST) == pytest.approx((0.5, 0.5))


def test_a_cell_says_what_is_compared_where_chains_are_lost():
    lines = across({"neon": [paid("ours", [0.5, 0.5]), paid("uce", [1.0, 999.0])]}, BY)
    assert lines[2].endswith("/ 0.5 | 100.0 / 100.0 / 100.0 / 5e+02 (5.5) |")


def test_settings_are_named_where_there_are_several():
    def setting(strength, steps):
        made = point("uce")
        return made.model_copy(
            update={"setting": made.setting.model_copy(update={"strength": strength, "max_train_steps": steps})}
        )

    lines = across({"neon": [point("ours"), setting(0.5, 1), setting(2.0, 60), setting(2.0, 60)]}, BY)
    assert lines[2].split(" | ")[2].removesuffix(" |") == "<br>".join(
        ["0.5: 100.0 / 100.0 / 100.0 / 2", "2, 60: 100.0 ± 0.0 / 100.0 / 100.0 / 2 ± 0"]
    )


def test_the_interval_is_exact():
    low, high = Runs((point("a"),)).ends("target_share", "asked", BY)
    assert low == 0
    assert high == pytest.approx(1 - 0.025 ** (1 / 100))


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
    assert lines[-1] == "| uce | 0 | 0 | 1 | 0 | 0 | 0 |"
    assert lines[-2] == "| leco | 0 | 0 | 0 | 0 | 0 | 0 |"


def test_the_target_is_nobody_s_rival_and_ours_in_another_way_has_a_table_of_its_own():
    tasks = {
        "a boot": [
            point("ours"),
            point("ours-guidance", nats=4.0),
            point("rejection", nats=0.0),
            point("uce", nats=3.0),
        ]
    }
    assert [(one.method, one.verdict) for one in compared(tasks, BY)] == [("uce", "ours")]
    assert [(one.method, one.verdict) for one in compared(tasks, BY, "ours-guidance")] == [("uce", "its own")]
    lines = across(tasks, BY)
    assert lines[0] == "| concept | ours | ours-guidance | rejection | uce |"
    heads = [line.split(" | ")[0] for line in lines if "against" in line]
    assert heads == ["| ours against", "| ours-guidance against"]
    assert [line for line in lines if line.startswith("| uce")] == [
        "| uce | 0 | 0 | 1 | 0 | 0 | 0 |",
        "| uce | 0 | 0 | 0 | 0 | 1 | 0 |",
    ]
