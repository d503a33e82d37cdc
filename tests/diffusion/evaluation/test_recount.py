"""Levels of a result counted again: whose samples, which prompts, what is shown and what is not."""

import json

import numpy as np
import pytest
import torch

from diffusion.evaluation import measure_detected
from diffusion.evaluation import recount as recounting
from diffusion.evaluation.recount import asked_of, certified_model, check_recount, of_another, recount
from diffusion.pipelines import denoiser_of
from diffusion.tasks.config import EvaluationConfig, Sampling
from diffusion.tasks.detector_levels import constraints_of
from diffusion.tasks.detectors import CheckedDetector
from diffusion.tasks.prompts import Prompts
from tests.diffusion import families
from tests.diffusion.families import build
from tests.diffusion.workflows.test_concepts import quiet

LAW = Prompts(
    [
        {"prompt": "seven", "weight": 1, "anchor": "a digit"},
        {"prompt": "one", "weight": 7, "group": "ones"},
        {"prompt": "", "weight": 2},
    ]
)
SEEN = EvaluationConfig(samples=2000, concept_samples=400)


def counted(monkeypatch, level, kept="90% in ones", rate=0.5, evaluation=SEEN):
    """A network that shows the concept under its own prompt, a tenth of the law, at this rate, and a one under its
    prompts always; with the prompts and seeds that samples were asked for."""
    asked = []

    def sample(_denoiser, prompts, rows, sampling, *, seed, own, progress):
        assert prompts is LAW
        assert own  # as they are asked, not as their anchors
        assert sampling.guidance_scale == 3
        asked.append((np.asarray(rows), seed))
        return torch.stack([torch.from_numpy(rows), torch.arange(len(rows))], 1).double()

    def said(_pipeline, latents, detectors):
        assert [each.name for each in detectors] == ["by name: seven", "by name: one"]
        seven = (latents[:, 0] == 0) & (latents[:, 1] % 100 < 100 * rate)
        return torch.stack([seven, latents[:, 0] == 1], 1).double()

    monkeypatch.setattr(measure_detected, "sample_prompts", sample)
    monkeypatch.setattr(measure_detected, "detect", said)
    detectors = {name: CheckedDetector(f"by name: {name}", lambda images: images) for name in ("seven", "one")}
    constraints = constraints_of(["seven"], [level], [("one", kept)], LAW)
    sampling, denoiser = Sampling(guidance_scale=3), denoiser_of(build(families.sd))
    found = recount(denoiser, LAW, detectors, constraints, sampling, evaluation, bar=quiet)
    return found, asked


def test_what_holds_is_shown_and_what_does_not_is_not(monkeypatch):
    """A tenth of the law shows it at a rate of one half: 5 %."""
    (gone, kept), asked = counted(monkeypatch, "8%")
    assert abs(gone.estimate.mean - 0.05) < 5 * (0.05 / 2000) ** 0.5
    assert (gone.estimate.n, gone.bound.rule, gone.bound.side, gone.asked) == (2000, "clopper_pearson", "upper", 0.08)
    assert gone.met
    assert gone.group is None
    assert (kept.estimate.mean, kept.group, kept.bound.side, kept.met) == (1.0, "ones", "lower", True)
    assert kept.estimate.n > 400  # those of the law that fall into the group are its samples, too
    assert sum(len(rows) for rows, _ in asked) == 2000
    (gone, kept), _ = counted(monkeypatch, "4%")
    assert not gone.met
    assert kept.met
    (gone, _), _ = counted(monkeypatch, "5.4%")  # true, and too near for so few samples
    assert not gone.met


def test_samples_are_those_of_the_seed_and_no_run_s(monkeypatch):
    one, again, other = (counted(monkeypatch, "8%", evaluation=SEEN.but(seed=k))[1] for k in (3, 3, 4))
    assert [seed for _, seed in one] == [seed for _, seed in again]
    assert all((a == b).all() for (a, _), (b, _) in zip(one, again, strict=True))
    assert {seed for _, seed in one}.isdisjoint(seed for _, seed in other)
    assert any((a != b).any() for (a, _), (b, _) in zip(one, other, strict=True))
    monkeypatch.setattr(recounting, "count_prompts", lambda *given: pytest.fail(str(given[4])))
    with pytest.raises(pytest.fail.Exception) as word:
        counted(monkeypatch, "8%", evaluation=SEEN.but(seed=3))

    class Survey:
        class budget:
            seed = 0

    assert int(str(word.value)) not in measure_detected._seeds(SEEN.but(seed=3), Survey)


def test_sequential_counting_ends_where_a_level_is_shown(monkeypatch):
    seen = EvaluationConfig(samples=4000, sequential=True, batch=100)
    (gone, _), asked = counted(monkeypatch, "30%", evaluation=seen)
    assert gone.met
    assert gone.bound.rule == "anytime"
    assert sum(len(rows) for rows, _ in asked) < 2000


def test_multiples_are_read_off_the_certificate(tmp_path):
    constraints = constraints_of(["seven"], ["0.1x"], [("one", "90% in ones")], LAW)
    with pytest.raises(ValueError, match="a multiple of what the model had was given"):
        check_recount(constraints, SEEN)
    with pytest.raises(ValueError, match=r"has no certificate\.json"):
        asked_of(constraints, tmp_path)
    levels = [
        {"concept": "seven", "group": None, "side": "upper", "level": 0.012, "solved_level": 0.01},
        {"concept": "one", "group": "ones", "side": "lower", "level": 0.9, "solved_level": 0.9},
    ]
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps({"question": {"levels": levels}}))
    assert [each.level.value for each in asked_of(constraints, tmp_path)] == [0.012, 0.9]
    path.write_text(json.dumps({"question": {"levels": levels[:1]}}))
    with pytest.raises(ValueError, match="are not those of the task beside it"):
        asked_of(constraints, tmp_path)
    plain = constraints_of(["seven"], ["1%"], [], LAW)
    assert asked_of(plain, tmp_path / "nowhere") == plain


def test_which_base_model_a_certificate_is_of(tmp_path):
    assert certified_model(tmp_path) is None
    (tmp_path / "certificate.json").write_text(json.dumps({"provenance": {"model_fingerprint": "ab"}}))
    assert certified_model(tmp_path) == "ab"
    assert of_another("ab", "ab") is None
    assert "of base model ab; the certificate is of another, cd:" in of_another("ab", "cd")
    assert "of base model ab; there is no certificate:" in of_another("ab", None)


@pytest.mark.parametrize(
    ("evaluation", "why"),
    [
        (EvaluationConfig(samples=0), "a recount is there to measure, and 0 were given"),
        (EvaluationConfig(samples=100), "100 cannot show a level of 0.01"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_any_work(evaluation, why):
    with pytest.raises(ValueError, match=why):
        check_recount(constraints_of(["seven"], ["1%"], [], LAW), evaluation)
