"""The measuring of costs, on runs whose cost is known, and one row of the real table."""

import subprocess
import sys

import pytest
import torch

from diffusion.digits.experiments.step_costs import UNCOUNTED, Cost, main, measured, of_rounds, table
from diffusion.digits.quality import StepCosts

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def test_memory_and_steps_are_counted():
    calls = []

    def run(clock):
        while True:
            held = torch.ones(20_000_000)  # 76 MB
            calls.append(float(held.sum()))
            del held
            clock(1)

    cost = measured("sums", run, 3)
    assert len(calls) == UNCOUNTED + 3
    assert cost.seconds > 0
    assert 60 < cost.megabytes < 150


def test_a_run_that_ends_early_is_no_measurement():
    with pytest.raises(RuntimeError, match="short ended before 7 steps"):
        measured("short", lambda clock: clock(1), 5)


def test_the_table_compares_with_its_first_row():
    lines = table([Cost("bare", 0.5, 100.0), Cost("other", 1.0, 250.0)]).splitlines()
    assert lines[2:] == ["| bare | 0.500 | 1.00 | 100 | 1.00 |", "| other | 1.000 | 2.00 | 250 | 2.50 |"]


def test_of_several_rounds_the_quickest_and_the_fullest_count():
    assert of_rounds([Cost("some", 0.5, 90.0), Cost("some", 0.4, 80.0), Cost("some", 0.7, 85.0)]) == Cost(
        "some", 0.4, 90.0
    )


@pytest.mark.parametrize("name", ["steps", "rounds"])
def test_counts_must_be_positive(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["costs", f"--{name}", "0"])
    with pytest.raises(SystemExit):
        main()
    assert f"{name} must be at least 1, got 0" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command(tmp_path):
    words = [
        sys.executable,
        "-m",
        "diffusion.digits.experiments.step_costs",
        "--batch",
        "12",
        "--steps",
        "2",
        "--rounds",
        "2",
        "--only",
        "tilted",
    ]
    run = subprocess.run([*words, "--output", tmp_path / "costs.json"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert [line.split(" | ")[0] for line in run.stdout.splitlines()[2:]] == ["| bare pass, all weights", "| tilted"]
    written = StepCosts.model_validate_json((tmp_path / "costs.json").read_text(encoding="utf-8"))
    assert written.costs
    assert all(cost.name in run.stdout for cost in written.costs)
    assert run.stderr.count("Cost(name='tilted'") == 2
