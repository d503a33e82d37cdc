"""`unlearn bench wardrobe --sweep` and `--quick`: what is asked of the sweep, and what a method that fails ends in."""

import sys

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("diffusers")

from diffusion.cli import main as cli
from diffusion.evaluation.sweep.frontier import BEFORE
from diffusion.evaluation.sweep.plan import METHODS, QUICK
from diffusion.evaluation.sweep.point import Figure, Point, Setting, share
from diffusion.runtime.documents import Estimate
from diffusion.workflows import sweep as workflow
from tests.diffusion.cli.commands import error

WORDS = ("bench", "wardrobe", "--concept", "an ankle boot")


def point(method, failed=None):
    by, none = "kernel machine", np.zeros(4, bool)
    figures = [
        *(share("target_share", name, by, none) for name in ("asked", "trained", "paraphrases", "contexts", "anchors")),
        share("in_axis_accuracy", "retained", by, none),
        share("cross_axis_accuracy", "all", by, none),
        *(Figure(name=name, prompts=prompts, estimate=Estimate(mean=0.0, stderr=0.0, n=2))
          for name, prompts in (("energy_distance", "retained"), ("cost", "asked"), ("cost", "retained"))),
    ]  # fmt: skip
    setting = Setting(method=method, strength=1, max_train_steps=2, learning_rate=1e-3, train_batch_size=4)
    return Point(
        task="t", concept="boot", setting=setting, command="unlearn", failed=failed,
        figures=() if failed else tuple(figures),
    )  # fmt: skip


@pytest.fixture
def asked(monkeypatch):
    """What sweeps were asked for; they end in a table of one method that failed."""
    seen = []

    def run_sweep(denoiser, task, sweep, folder):
        seen.append(sweep)
        return [point(BEFORE), point("uce"), point("leco", "the loss at step 0 is nan")]

    monkeypatch.setattr(workflow, "run_sweep", run_sweep)
    return seen


def ended(monkeypatch, capsys, *words):
    """Status, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["unlearn", *map(str, words)])
    with pytest.raises(SystemExit) as how:
        cli.main()
    return how.value.code or 0, *capsys.readouterr()


def test_a_method_that_fails_ends_quick_with_status_1_and_a_sweep_with_a_row(monkeypatch, capsys, tmp_path, asked):
    status, out, err = ended(monkeypatch, capsys, *WORDS, "--quick", "--output", tmp_path)
    assert status == 1
    assert "failed: leco" in err
    assert "uce" in out
    assert (asked[0].methods, asked[0].measured, asked[0].quick) == (METHODS, QUICK.measured, True)
    assert asked[0].sampling.num_inference_steps == 4
    more = ("--sweep", "--num-inference-steps", "8", "--images", "16", "--points", "2", "--methods", "leco")
    status, out, _ = ended(monkeypatch, capsys, *WORDS, *more, "--output", tmp_path)
    assert status == 0
    assert "the loss at step 0 is nan" in out
    assert (asked[1].methods, asked[1].points, asked[1].quick) == (("leco",), 2, False)
    assert (asked[1].measured.samples, asked[1].sampling.num_inference_steps) == (16, 8)
    assert asked[1].measured.chains == 4
    ended(monkeypatch, capsys, *WORDS, "--sweep", "--images", "16", "--cost-chains", "64", "--output", tmp_path)
    assert (asked[2].measured.samples, asked[2].measured.chains) == (16, 64)


def test_quick_keeps_the_steps_that_are_given(monkeypatch, capsys, tmp_path, asked):
    ended(monkeypatch, capsys, *WORDS, "--quick", "--num-inference-steps", "2", "--output", tmp_path)
    assert asked[0].sampling.num_inference_steps == 2


@pytest.mark.parametrize(
    ("more", "said"),
    [(("--images", "1"), "images must be at least 2"), (("--points", "0"), "points must be at least 1"),
     (("--cost-chains", "1"), "cost-chains must be at least 2"),
     (("--seeds", "0"), "seeds must be at least 1"), (("--methods", "magic"), "method must be one of ours")],
)  # fmt: skip
def test_what_cannot_be_swept_is_refused_at_once(monkeypatch, capsys, tmp_path, asked, more, said):
    assert said in error(monkeypatch, capsys, *WORDS, "--sweep", *more, "--output", tmp_path)
    assert not asked
