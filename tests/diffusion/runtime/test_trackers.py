"""What a fit tells trackers, through accelerate; nothing of it depends on them."""

import numpy as np
import pytest
import torch
from accelerate.tracking import GeneralTracker

from diffusion.methods import PrimalDual
from diffusion.methods.base import FitContext
from diffusion.runtime.trackers import Tracked, log
from diffusion.tasks.config import FitConfig
from tests.diffusion.methods.conftest import made, make_denoiser

SMALL = FitConfig(max_train_steps=3, train_batch_size=12, rank=2, learning_rate=1e-2, seed=3)
ALTERNATE = PrimalDual(inner=2, warmup=0, gain=0.2, samples=4, noise_levels=1)


@pytest.fixture
def denoiser():
    return make_denoiser()


class Recorder(GeneralTracker):
    name = "recorder"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self):
        super().__init__()
        self.rows, self.config, self.finished = [], {}, False

    @property
    def tracker(self):
        return self.rows

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step):
        self.rows.append((step, values))

    def finish(self):
        self.finished = True


def test_a_tracker_hears_of_terms_multipliers_and_levels(denoiser, estimate, solution, tmp_path):
    recorder = Recorder()
    with Tracked([recorder], tmp_path, {"method": "primal-dual", "rank": None}):
        outcome = ALTERNATE.fit(FitContext(denoiser, estimate, solution, SMALL.but(max_train_steps=4)))
    assert recorder.finished
    assert recorder.config == {"method": "primal-dual", "rank": "None"}
    steps = [(step, row) for step, row in recorder.rows if "loss" in row]
    assert [step for step, _ in steps] == [1, 2, 3, 4]
    assert [row["loss"] for _, row in steps] == outcome.losses
    assert set(steps[0][1]) == {"loss", "retention", "constraint", "rate"}
    rounds = [(step, row) for step, row in recorder.rows if "level/0" in row]
    assert [step for step, _ in rounds] == [2, 4]
    for index, (_, row) in enumerate(rounds):
        assert [row["multiplier/0"], row["multiplier/1"]] == outcome.multipliers[index].tolist()
        assert [row["level/0"], row["level/1"]] == outcome.levels[index].tolist()
        assert row["slack/0"] == pytest.approx(0.05 - row["level/0"])
    log(5, {"loss": 0.0})  # outside, nobody listens
    assert len(recorder.rows) == 6


def test_a_fit_does_not_depend_on_who_listens(estimate, solution, tmp_path):
    one, two = make_denoiser(), make_denoiser()
    ALTERNATE.fit(FitContext(one, estimate, solution, SMALL))
    with Tracked([Recorder()], tmp_path):
        ALTERNATE.fit(FitContext(two, estimate, solution, SMALL))
    pairs = zip(one.network.parameters(), two.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_trackers_that_are_not_there_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="tracker must be one of tensorboard, wandb, got 'paper'"):
        Tracked(["paper"], tmp_path)
    monkeypatch.setattr("diffusion.runtime.trackers.find_spec", lambda _name: None)
    with pytest.raises(ImportError, match="tracker 'wandb' needs the package wandb: pip install wandb"):
        Tracked(["wandb"], tmp_path)


def test_wandb_writes_its_files(denoiser, estimate, solution, tmp_path, monkeypatch):
    """Offline, into the folder given; what it would send is in one file of its own format."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with Tracked(["wandb"], tmp_path / "runs", {"rank": 2}):
        made("tilted").fit(FitContext(denoiser, estimate, solution, SMALL))
    (file,) = (tmp_path / "runs").rglob("run-*.wandb")
    assert file.stat().st_size > 0


def test_tensorboard_writes_its_files(denoiser, estimate, solution, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Tracked(["tensorboard"], tmp_path, {"rank": 2}):
        outcome = made("tilted").fit(FitContext(denoiser, estimate, solution, SMALL))
    events = EventAccumulator(str(tmp_path / "unlearning")).Reload()
    np.testing.assert_allclose([scalar.value for scalar in events.Scalars("loss")], outcome.losses, rtol=1e-6)
