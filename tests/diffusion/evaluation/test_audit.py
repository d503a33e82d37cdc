"""The parts of an audit and of a bench: prompts near a concept, curves and their errors, summaries."""

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline

import duality as du
from diffusion.evaluation.audit import AuditConfig, audit, counted_shares, near_prompts, settings_of
from diffusion.evaluation.audit_table import Audit, AuditReport, Cell, frequencies, looked
from diffusion.evaluation.benchmark import GUIDED, Bench, chosen_methods, run_bench
from diffusion.evaluation.benchmark_table import Compared, Failure, MethodRow, MethodRun, Quantity, Table, summary
from diffusion.evaluation.bounds import Estimate
from diffusion.evaluation.concept_classifier import ConceptClassifier
from diffusion.evaluation.measured import CLASSIFIER
from diffusion.evaluation.relearning import Arm, Curve, RelearnConfig, recall, teach, turned
from diffusion.methods import METHODS
from diffusion.pipelines import denoiser_of
from diffusion.pipelines.sampling import sample_latents
from diffusion.tasks.concepts import ConceptLaw, TaskPrompts
from diffusion.tasks.config import EvaluationConfig, FitConfig
from diffusion.tasks.detectors import CheckedDetector
from diffusion.tasks.task import Concept, ConceptTask
from tests.diffusion import families
from tests.diffusion.families import build
from tests.diffusion.methods.conftest import make_survey
from tests.diffusion.workflows.test_concepts import quiet


def curve(values, errors=0.01):
    """A curve over steps 0, 1, 2 from (seeds, 3) frequencies."""
    values = np.atleast_2d(np.asarray(values, float))
    return Curve("arm", (0, 1, 2), values, np.full_like(values, errors))


def test_recall_is_the_place_between_the_controls():
    new, estimate = curve([0.0, 0.0, 0.2]), curve([0.1, 0.8, 1.0])
    assert recall(new, estimate, new)[0] == pytest.approx(0.0)
    assert recall(estimate, estimate, new)[0] == pytest.approx(1.0)
    value, error = recall(
        curve([0.9, 0.3, 0.7]), estimate, new
    )  # what was there before a step was taken does not count
    assert value == pytest.approx((0.5 - 0.1) / (0.9 - 0.1))
    assert np.isnan(recall(new, new, new)).all()
    # Delta method against repetitions: areas with independent normal errors of 0.01/sqrt(2).
    rng, sigma = np.random.default_rng(0), 0.01 / np.sqrt(2)
    a, b, c = (mean + sigma * rng.normal(size=20_000) for mean in (0.5, 0.9, 0.1))
    assert error == pytest.approx(np.std((a - c) / (b - c)), rel=0.03)


def test_errors_of_a_curve_are_of_samples_and_of_seeds():
    alike = curve([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]], 0.04)
    np.testing.assert_allclose(alike.stderr, 0.04 / np.sqrt(2))
    assert alike.area == pytest.approx((0.5, 0.04 / 2))
    apart = curve([[0.2, 0.2, 0.2], [0.6, 0.6, 0.6]], 0.0)
    np.testing.assert_allclose(apart.mean, 0.4)
    np.testing.assert_allclose(apart.stderr, 0.2)


def test_prompts_near_a_concept_are_none_of_its_paraphrases():
    prompts = TaskPrompts((ConceptLaw(("seven", "a handwritten seven"), 0.1), ConceptLaw(("eight",), 0.1)), (("one",),))
    some = near_prompts(prompts, 0)
    assert "seven, seven" in some
    assert "seven handwritten a" in some
    assert "an image of seven" in some
    assert "one and seven" in some
    assert all(prompts.asks_for(prompt) is None for prompt in some)
    assert len(near_prompts(prompts, 0, 3)) == 3


def test_one_thing_is_changed_at_a_time():
    names = [each.name for each in settings_of(denoiser_of(build(families.sd)), 10, (3.0,))]
    assert names == ["own sampler", "20 steps", "guidance 3", "DPM-Solver++"]
    without = settings_of(denoiser_of(build(lambda: families.ddpm(DDPMPipeline))), 10, (3.0,))
    assert [each.steps for each in without] == [10, 20]
    flow = settings_of(denoiser_of(build(families.sd3)), 10, ())
    assert [each.name for each in flow] == ["own sampler", "20 steps"]


def test_images_on_their_side_come_back_upright():
    denoiser = denoiser_of(build(lambda: families.ddpm(DDPMPipeline)))
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    aside = turned(denoiser, images)
    assert torch.equal(aside[:, :, 0, 0], images[:, :, 0, -1])
    assert torch.equal(turned(denoiser, aside, 3), images)


def test_teaching_leaves_the_network_as_it_was():
    denoiser = denoiser_of(build(families.sd))
    before = sample_latents(denoiser.pipeline, ["seven"], seed=0, steps=2)
    images = torch.randn(4, *denoiser.sample_shape, generator=torch.Generator().manual_seed(0))
    relearn_config = RelearnConfig(images=4, steps=(0, 2, 3), samples=3, seeds=2, batch=2, rank=1, rate=0.05)
    seen = []

    def shows(latents):
        seen.append(latents)
        return np.array([1.0, 0.0, 0.5])

    made = teach(denoiser, Arm("arm", [images, images], "seven", shows), relearn_config, 2, seed=5)
    assert made.frequency.shape == (2, 3)
    np.testing.assert_allclose(made.mean, 0.5)
    assert not torch.equal(seen[1], seen[2])
    assert torch.equal(sample_latents(denoiser.pipeline, ["seven"], seed=0, steps=2), before)


def test_bad_configurations_are_refused():
    for make, words in (
        (lambda: RelearnConfig(steps=(1, 2)), "rise from 0"),
        (lambda: RelearnConfig(steps=(0, 5, 5)), "rise from 0"),
        (lambda: RelearnConfig(images=0), "images must be at least 1"),
        (lambda: AuditConfig(samples=1), "samples must be at least 2"),
        (lambda: AuditConfig(scales=(1.0,)), "above 1"),
        (lambda: chosen_methods(["magic"]), "one of no training, tilted"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    denoiser = denoiser_of(build(families.sd))
    with pytest.raises(ValueError, match="two pipelines"):
        audit(denoiser, denoiser, make_survey())
    assert chosen_methods(None) == (GUIDED, *METHODS)


def test_a_detector_speaks_first_and_of_its_own_concept():
    """Of two concepts, each with a detector: one that sees it in every image, and one in none."""
    denoiser, survey = denoiser_of(build(families.sd)), make_survey()
    always, never = (CheckedDetector(str(k), lambda images, k=k: np.full(len(images), k)) for k in (1.0, 0.0))
    latents = torch.zeros(3, *denoiser.sample_shape)
    for index, (detector, seen) in enumerate(((always, 1.0), (never, 0.0))):
        classifier = ConceptClassifier(denoiser, survey, None, index, detector)
        classifier.posterior = lambda latents: np.full(len(latents), 0.5)
        assert list(classifier.said(latents)) == [detector.name, CLASSIFIER]
        assert classifier.shows(latents).tolist() == [seen] * 3
        assert classifier.name == f"{detector.name}, {CLASSIFIER}"
    plain = ConceptClassifier(denoiser, survey, None, 0)
    plain.posterior = lambda latents: np.full(len(latents), 0.5)
    assert plain.shows(latents).tolist() == [0.5] * 3
    # Jeffreys' mean of 4 of 4 and 0 of 4: never a prior of 0 or 1.
    assert counted_shares(denoiser, [always, never], "", 2, 4, 0) == pytest.approx([0.9, 0.1])


def test_a_task_by_detectors_is_looked_at_by_its_prompts():
    task = ConceptTask(
        concepts=[Concept(["seven", "7"], detector="digits:seven")],
        levels="1%; 5% in ones",
        keep=["digits:one=90% in ones"],
        prompts=[{"prompt": "seven"}, {"prompt": "one", "group": "ones"}],
        retained_prompts=["one"],
        anchor="a digit",
    )
    plain = task.of_ratios([0.1])
    assert not plain.by_detectors
    assert [(each.prompts, each.prior) for each in plain.concepts] == [(("seven", "7"), 0.1)]
    assert (plain.keep, plain.prompts, plain.retained_prompts, plain.anchor) == ((), None, (("one",),), "a digit")
    assert plain.asked.levels[0].relative


def runs(name, *pairs):
    """One run a seed of one quantity, from means and standard errors."""
    return [
        MethodRun(
            task="t",
            method="one",
            seed=seed,
            quantities=(Quantity(name=name, estimate=Estimate(mean=mean, stderr=error, n=100)),),
        )
        for seed, (mean, error) in enumerate(pairs)
    ]


def test_a_summary_takes_the_larger_of_both_errors():
    alike = summary("one", runs("level", (0.1, 0.03), (0.1, 0.04))).of("level")
    assert (alike.mean, alike.stderr, alike.n) == (pytest.approx(0.1), pytest.approx(0.025), 2)
    apart = summary("one", runs("level", (0.1, 0.01), (0.3, 0.01))).of("level")
    assert (apart.mean, apart.stderr) == (pytest.approx(0.2), pytest.approx(0.1))
    alone = summary("one", runs("seconds", (2.0, 0.0))).of("seconds")
    assert (alone.mean, alone.stderr) == (2.0, 0.0)
    with pytest.raises(ValueError, match="hold different quantities"):
        summary("one", [*runs("level", (0.1, 0.03)), *runs("cost", (0.1, 0.03))])


def test_a_table_is_lines_and_a_document():
    asked = Compared(
        problem="Likelihood", levels=(0.1,), predicted_cost=0.2, target_posterior=(0.1,), rank=2, steps=3, seeds=(0,),
        samples=9,
    )  # fmt: skip
    level = Quantity(
        name="level", concept="a seven", prompts="anchor", by="SVM", estimate=Estimate(mean=0.1, stderr=0.02, n=1)
    )
    table = Table(
        task={},
        asked=asked,
        rows=(MethodRow(method="one", quantities=(level,)), MethodRow(method="two", quantities=())),
        failed=(Failure(method="three", seed=0, reason="diverged"),),
    )
    lines = table.lines()
    assert "level, a seven, SVM" in lines[1]
    assert "0.1 ± 0.02" in lines[2]
    assert lines[-1] == "three, seed 0: diverged"
    assert Table.model_validate_json(table.to_json()) == table
    assert table.rows[0].of("level", concept="a seven").mean == 0.1
    with pytest.raises(LookupError):
        table.rows[0].of("level", concept="an eight")


def test_what_was_found_nowhere_is_bounded_all_the_same():
    """No hit among 50 is not "0.00 ± 0.00" and no more: up to 5.8 % may show it, by Clopper and Pearson."""
    sure, unsure = frequencies({"SVM": np.zeros(50), "ratio_classifier": np.full(50, 0.01)})
    assert sure.bound.value == pytest.approx(1 - 0.05 ** (1 / 50), rel=1e-9)
    assert (sure.bound.rule, unsure.bound.rule) == ("clopper_pearson", "betting")
    assert unsure.bound.value > 0.01
    cell = Cell(
        concept="seven", prompts="anchor", setting="own sampler", num_inference_steps=10, guidance_scale=1.0,
        sampler=None, samples=50, before=frequencies({"SVM": np.arange(50) < 5.0}), after=(sure,),
    )  # fmt: skip
    new, old = curve([0.0, 0.0, 0.2]), curve([0.1, 0.8, 1.0])
    found = Audit((cell,), {"seven": (new, old, new)}, {"seven": recall(new, old, new)})
    assert "0.00 ± 0.00 ≤   5.82 ( 10.00)" in found.lines()[2]
    report = AuditReport.model_validate_json(found.data().to_json())
    assert report == found.data()
    assert [arm.role for arm in report.relearned[0].arms] == ["unlearned", "known", "new"]
    unknown = Audit((cell,), {"seven": (new, new, new)}, {"seven": recall(new, new, new)}).data()
    assert unknown.relearned[0].recall is None


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
def test_a_method_that_diverges_is_reported(monkeypatch, tmp_path):
    class Diverges:
        def fit(self, *_arguments, **_more):
            raise FloatingPointError("the loss at step 3 is nan")

    monkeypatch.setitem(METHODS, "neggrad", Diverges)
    denoiser = denoiser_of(build(families.sd))
    plan = Bench(
        ("neggrad", "esd-x"),
        (0,),
        FitConfig(max_train_steps=1, train_batch_size=6, rank=1),
        EvaluationConfig(samples=3, concept_samples=2, retained_samples=3, integrated=2),
    )
    table = run_bench(denoiser, make_survey(), du.ReverseKL([0.9, 0.8]), plan, None, tmp_path, quiet)
    assert [row.method for row in table.rows] == ["esd-x"]
    assert table.failed == (Failure(method="neggrad", seed=0, reason="the loss at step 3 is nan"),)
    kept = MethodRun.model_validate_json((tmp_path / "neggrad-0.json").read_text(encoding="utf-8"))
    assert kept.failed == "the loss at step 3 is nan"
    written = (tmp_path / "bench.json").read_text(encoding="utf-8")
    assert Table.model_validate_json(written).to_json() == table.to_json() == written
    kept = kept.model_copy(update={"task": "another"})
    (tmp_path / "neggrad-0.json").write_text(kept.to_json(), encoding="utf-8")
    for spoil, words in ((str, "belongs to another task"), (lambda text: text[:40], "cannot be read")):
        path = tmp_path / "neggrad-0.json"
        path.write_text(spoil(path.read_text(encoding="utf-8")), encoding="utf-8")
        with pytest.raises(ValueError, match=words):
            run_bench(denoiser, make_survey(), du.ReverseKL([0.9, 0.8]), plan, None, tmp_path, quiet)


def test_a_row_is_looked_at_under_its_own_name_and_shares():
    said, gone = frequencies({"SVM": np.arange(12) < 9.0}), frequencies({"SVM": np.arange(12) < 3.0})
    row = {"concept": "seven", "num_inference_steps": 2, "guidance_scale": 1.0, "sampler": None, "samples": 12}
    cell = Cell(prompts="near", setting="own sampler", before=said, after=gone, **row)
    before, after = torch.zeros(12, 1, 4, 4), torch.ones(12, 1, 4, 4)
    seen = looked(cell, before, after)
    assert (seen.title, seen.labels) == ("seven: near it, own sampler", ("before\n75 %", "after\n25 %"))
    assert (len(seen.before), len(seen.after)) == (8, 8)
    assert float(seen.before.max()) == 0 < float(seen.after.min())
    attack = Cell(prompts="attack", setting="soft prompt", before=said, after=said, **row)
    assert looked(attack, before, after).title == "seven: soft prompt"
