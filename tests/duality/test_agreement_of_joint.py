"""Groups, joint and keep problems against CVXPY on thousands of instances, those that cannot be had among them."""

from __future__ import annotations

from collections import Counter

import group_cases
import joint_cases
import pytest

EACH = 220
GROUPED = ("reverse", "forward", "likelihood")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_thousand_instances_against_cvxpy(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cvxpy")
    table: dict[str, Counter[str]] = {}
    for kind in GROUPED:
        table[f"groups: {kind}"] = Counter(group_cases.agree(kind, seed) for seed in range(10_000, 10_000 + EACH))
    for kind in joint_cases.MAKERS:
        table[kind] = Counter(joint_cases.agree(kind, seed) for seed in range(10_000, 10_000 + EACH))
    total = sum(table.values(), Counter())
    with capsys.disabled():
        print()
        for kind, seen in (*table.items(), ("all", total)):
            print(f"{kind:<45}{sum(seen.values()):>6}  " + ", ".join(f"{n} {s}" for s, n in sorted(seen.items())))
    assert sum(total.values()) >= 2_000
    assert total["INFEASIBLE"] >= 400
    assert total["NOT_ATTAINED"] >= 100
    assert total["INEXACT"] == 0
