"""The target of a task by rejection: its cost, and that it is what ours is asked for."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion.evaluation.sweep.canvas import CanvasTask
from diffusion.evaluation.sweep.measure import Measured
from diffusion.evaluation.sweep.plan import Sweep
from diffusion.evaluation.sweep.target import tilt_cost
from diffusion.tasks.config import Sampling
from diffusion.tasks.detectors import CheckedDetector
from diffusion.workflows.sweep import run_sweep

BOOT = CanvasTask.of("an ankle boot")


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30), st.floats(0, 20), st.floats(-5, 5))
def test_the_cost_is_that_of_the_weights_whatever_they_are_multiplied_by(said, multiplier, factor):
    logs = -multiplier * np.array(said)
    p = np.exp(logs - logs.max())
    p /= p.sum()
    expected = float((p * np.log(np.maximum(p, 1e-300) * len(p))).sum())
    assert tilt_cost(logs).mean == pytest.approx(expected, abs=1e-12 * len(p))
    assert tilt_cost(logs + factor).mean == pytest.approx(expected, abs=1e-10)


def test_its_error_is_how_far_it_is_spread():
    rng, found = np.random.default_rng(0), []
    for _ in range(2000):
        found.append(tilt_cost(-3.0 * (rng.random(200) < 0.2)))
    spread = np.std([each.mean for each in found])
    assert np.mean([each.stderr for each in found]) == pytest.approx(spread, rel=0.1)
    assert tilt_cost(np.zeros(5)).stderr == tilt_cost(np.zeros(5)).mean == 0
    assert np.isnan(tilt_cost(np.zeros(1)).stderr)


def test_by_hand():
    """A fifth shows it and the rest stays: KL = -log .8 where none is let through."""
    assert tilt_cost(np.array([-40.0, 0, 0, 0, 0])).mean == pytest.approx(-np.log(0.8), abs=1e-12)


def test_what_is_shown_goes_at_its_cost_and_retained_samples_are_the_base_model_s(monkeypatch, tmp_path):
    """A detector that shows on bright images, and one that shows on none."""
    from diffusion.api import open_denoiser

    denoiser = open_denoiser("wardrobe")
    bright = CheckedDetector("bright", lambda images: (images.mean(axis=(1, 2, 3)) > -0.2).astype(float))
    monkeypatch.setattr(CanvasTask, "detector", lambda _task: bright)
    small = Sweep(
        methods=("rejection",), measured=Measured(samples=2, chains=4, chain_steps=3), samples=200,
        sampling=Sampling(guidance_scale=3, num_inference_steps=2),
    )  # fmt: skip
    base, found = run_sweep(denoiser, BOOT, dataclasses.replace(small, points=2), tmp_path)
    assert found.setting.method == "rejection"
    assert found.failed is None
    assert found.bytes == 0
    assert found.network_evaluations > 200 * 2
    # It is asked of what ours sees, and paid where that has something to take away.
    assert found.of("cost", "retained").mean > 0
    assert found.of("cost", "asked").mean > 0
    nothing = CheckedDetector("nothing", lambda images: np.zeros(len(images)))
    monkeypatch.setattr(CanvasTask, "detector", lambda _task: nothing)
    kept = tmp_path / "nothing"
    _, same = run_sweep(denoiser, BOOT, dataclasses.replace(small, points=2), kept)
    # Where nothing is rejected, samples of retained prompts are those of the base model, from the same noise.
    assert same.of("cost", "retained").mean == 0
    assert same.of("kid_change", "retained").mean == 0
    assert same.of("in_axis_accuracy", "retained", "CNN").mean == base.of("in_axis_accuracy", "retained", "CNN").mean
    # Prompts that ask for it have the law of their anchors, which costs nothing against that law.
    assert same.of("cost", "asked").mean == 0 < base.of("cost", "asked").mean
    assert json.loads(next(kept.glob("point-rejection*")).read_text(encoding="utf-8"))["concept"] == "boot"
