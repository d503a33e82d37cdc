"""`diffusion.unlearn` where detectors define the concepts: one call, what it leaves, and what it refuses."""

import json

import numpy as np
import pytest
import yaml

import diffusion
import duality as du
from diffusion.pipelines.sampling import sample_latents
from diffusion.reports.detector_certificate import DetectorCertificate
from diffusion.tasks.config import Config, EvaluationConfig, FitConfig, RatiosConfig, Sampling
from diffusion.tasks.prompts import Prompts
from diffusion.tasks.task import Concept, ConceptTask
from diffusion.workflows import detected
from diffusion.workflows.validation import NothingToDo
from tests.diffusion import families
from tests.diffusion.clip_model import save_clip
from tests.diffusion.families import build

pytestmark = pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning", "ignore::duality.SmallGroupsWarning")


def bright(images):
    """A tenth to a half of what networks with random weights make."""
    return (images.mean(axis=(1, 2, 3)) > 0.02).astype(float)


def config(**more):
    sections = {
        "sampling": Sampling(num_inference_steps=2, guidance_scale=3),
        "ratios": RatiosConfig(num_samples=40, noisings=2, classifier_steps=4),
        "fit": FitConfig(max_train_steps=2, train_batch_size=6, rank=1),
        "evaluation": EvaluationConfig(samples=60, integrated=4),
    }
    return Config(**(sections | more))


def threshold(pipeline, scale=3.0):
    """Brightness that a quarter of the samples under the law exceed, as a detector."""
    from diffusion.pipelines.latents import decode

    images = decode(
        pipeline, sample_latents(pipeline, ["one", "", "a digit"] * 12, seed=5, steps=2, guidance_scale=scale)
    )
    cut = float(np.quantile(images.mean(axis=(1, 2, 3)), 0.75))

    def shown(images):
        return (images.mean(axis=(1, 2, 3)) > cut).astype(float)

    return shown


PROMPTS = Prompts(
    [
        {"prompt": "seven", "anchor": "a digit", "weight": 2},
        {"prompt": "one", "group": "rest"},
        {"prompt": "", "group": "empty"},
    ]
)


def test_one_call_unlearns_by_a_detector_under_guidance(tmp_path):
    pipeline = build(families.sd)
    detector = threshold(pipeline)
    task = ConceptTask(concepts=[Concept("seven", detector=detector)], levels="0.5x", prompts=PROMPTS)
    result = diffusion.unlearn(pipeline, task, config(), output=tmp_path / "out")
    proof = DetectorCertificate.model_validate_json((tmp_path / "out" / "certificate.json").read_text())
    assert proof == result.certificate
    assert proof.question.guidance_scale == 3
    assert [each.anchor for each in proof.question.prompts] == ["a digit", None, None]
    assert proof.certified is False
    assert result.solution.gap < 1e-9
    assert result.solution.multipliers[0] > 0
    # Every prompt has a normaliser of its own: the shares of prompts are what they were.
    masses = np.exp(result.solution.log_weights)
    rows = result.estimate.rows.numpy()
    np.testing.assert_allclose([masses[rows == c].sum() for c in range(3)], [0.5, 0.25, 0.25], rtol=1e-9)
    level = result.measured.levels[0]
    assert level.estimate.n == 60
    assert level.bound.rule == "clopper_pearson"
    assert [each.guidance_scale for each in result.measured.at_scales] == [1.5, 6]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"pytorch_lora_weights.safetensors", "README.md", "before_after.png", "task.yaml", "config.yaml"} <= names
    card = (tmp_path / "out" / "README.md").read_text()
    assert "guidance scale 3" in card
    assert "guidance_scale=3, num_inference_steps=2" in card
    assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["sampling"]["guidance_scale"] == 3


def test_a_folder_of_clip_is_a_detector_of_a_whole_run(tmp_path):
    folder = save_clip(tmp_path / "clip", scale=3.0, gain=3.0)
    detector = f"clip:a one|a seven@{folder}"
    task = ConceptTask(concepts=[Concept("seven", detector=detector)], levels="0.5x", prompts=PROMPTS)
    kept = FitConfig(max_train_steps=2, train_batch_size=6, rank=1, fixed_multipliers=True)
    settings = config(fit=kept, evaluation=EvaluationConfig(samples=120, integrated=2))
    result = diffusion.unlearn(build(families.sd), task, settings, output=tmp_path / "out")
    said = result.estimate.detected
    assert float(said.max() - said.min()) > 0.1  # it tells images apart, though it knows nothing of them
    assert result.solution.gap < 1e-9
    assert result.measured.levels[0].bound.rule != "clopper_pearson"  # what it says is no count
    proof = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert "a one" in proof["question"]["levels"][0]["detector"]


def test_nudenet_is_a_detector_of_a_whole_run(tmp_path):
    pytest.importorskip("nudenet")
    few = RatiosConfig(num_samples=20, noisings=2, classifier_steps=4)
    kept = FitConfig(max_train_steps=2, train_batch_size=6, rank=1, fixed_multipliers=True)
    settings = config(ratios=few, fit=kept, evaluation=EvaluationConfig(samples=20, integrated=2))
    task = ConceptTask(concepts=[Concept("seven", detector="nudenet")], levels="20%", prompts=PROMPTS)
    result = diffusion.unlearn(build(families.sd), task, settings, output=tmp_path / "out")
    # Nothing like it is in these images: the level is met, and what is left to do is to bring what the anchor brings.
    assert result.solution.inactive
    assert result.measured.levels[0].met
    assert result.measured.levels[0].hits == 0
    assert result.losses
    assert not result.certificate.certified
    assert any("and the target nothing" in reason for reason in result.certificate.fitted_model.reasons)


GROUPED = Prompts(
    [
        {"prompt": "seven", "anchor": "a digit", "weight": 2},
        {"prompt": "one", "group": "ones"},
        {"prompt": "", "group": ""},
    ]
)


def dark(pipeline):
    """What shows the concept, and what is kept: a threshold, and not the threshold."""
    bright = threshold(pipeline)
    return bright, lambda images: 1 - bright(images)


def test_levels_of_groups_and_what_is_kept_from_one_call_to_the_certificate(tmp_path):
    pipeline = build(families.sd)
    shown, kept = dark(pipeline)
    task = ConceptTask(
        concepts=[Concept("seven", detector=shown)],
        levels="0.6x; 0.7x in ones",
        keep=[{"concept": "dark", "detector": kept, "level": "0.9x in ones"}],
        prompts=GROUPED,
    )
    alone = EvaluationConfig(samples=60, integrated=4, sequential=True, batch=20, other_scales=False, aim=0.9)
    few = config(evaluation=alone)
    result = diffusion.unlearn(pipeline, task, few, output=tmp_path / "out")
    proof = DetectorCertificate.model_validate_json((tmp_path / "out" / "certificate.json").read_text())
    assert proof == result.certificate
    assert [(each.concept, each.side, each.group) for each in proof.question.levels] == [
        ("seven", "upper", None),
        ("seven", "upper", "ones"),
        ("dark", "lower", "ones"),
    ]
    assert proof.question.sequential
    now = result.plan.asked.levels
    assert result.plan.solved.levels[:2] == pytest.approx(0.9 * now[:2])
    ones = result.estimate.rows.numpy() == 1
    masses = np.exp(result.solution.log_weights)[ones]
    dark_share = masses @ result.estimate.detected.numpy()[ones, 1] / masses.sum()
    assert dark_share == pytest.approx(result.solution.levels[2], abs=1e-9)
    assert {each.bound.rule for each in result.measured.levels} == {"anytime"}
    assert not result.measured.at_scales
    assert [each.bound.side for each in result.measured.levels] == ["upper", "upper", "lower"]
    assert {each.estimate.n for each in result.measured.levels} <= {20, 40, 60, *range(60)}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| dark |" in card
    assert "at least" in card
    assert "60 samples at most, counted as they come" in card


def test_levels_in_conflict_are_named_before_any_training(monkeypatch):
    import diffusion.workflows.detected as workflow

    def fitted(*_arguments):
        raise AssertionError("trained")

    monkeypatch.setattr(workflow.DetectedTilt, "fit", fitted)
    pipeline = build(families.sd)
    shown, _ = dark(pipeline)
    task = ConceptTask(
        concepts=[Concept("seven", detector=shown)],
        levels="0.3x in ones",
        keep=[{"concept": "the same", "detector": shown, "level": "0.9x in ones"}],
        prompts=GROUPED,
    )
    with pytest.raises(du.InfeasibleError, match=r"1 is 'seven' in 'ones' at most 0\.3x; 2 is 'the same' in 'ones' at"):
        diffusion.unlearn(pipeline, task, config())


def test_a_repeated_run_finds_its_samples_and_ends_alike_and_no_fit_by_another_formula(tmp_path, monkeypatch):
    results, fits = [], []
    for revision in (detected.REVISION, detected.REVISION, -1):
        monkeypatch.setattr(detected, "REVISION", revision)
        pipeline = build(families.sd)
        task = ConceptTask(concepts=[Concept("seven", detector=threshold(pipeline))], levels="0.5x", prompts=PROMPTS)
        results.append(diffusion.unlearn(pipeline, task, config(runtime={"cache_folder": tmp_path / "cache"})))
        fits.append(len(list((tmp_path / "cache").glob("fit-*.safetensors"))))
    assert fits == [1, 1, 2]
    assert results[0].losses == results[1].losses
    assert [a == b for a, b in zip(*(r.measured.levels for r in results[:2]), strict=True)] == [True]
    assert len(list((tmp_path / "cache").glob("prompted-*.safetensors"))) == 1


@pytest.mark.parametrize("fixed", [True, False], ids=["fixed multipliers", "moved"])
def test_guidance_along_the_students_own_chain_in_one_call(fixed, tmp_path):
    pipeline = build(families.sd)
    task = ConceptTask(concepts=[Concept("seven", detector=threshold(pipeline))], levels="0.5x", prompts=PROMPTS)
    fit = FitConfig(method="guidance", max_train_steps=2, train_batch_size=6, rank=1, fixed_multipliers=fixed)
    result = diffusion.unlearn(pipeline, task, config(fit=fit), output=tmp_path / "out")
    assert np.isfinite(result.losses).all()
    assert (len(result.outcome.multipliers) == 1) is fixed
    assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["fit"]["method"] == "guidance"
    assert not result.certificate.certified


def test_a_model_without_prompts():
    pipeline = build(families.ddpm)
    task = ConceptTask(concepts=[Concept("bright", detector=lambda images: images[:, 0, 0, 0] > 0)], levels="0.5x")
    with pytest.raises(ValueError, match="takes none, so the only one is the empty prompt"):
        diffusion.unlearn(pipeline, task, config(sampling=Sampling(num_inference_steps=2)))
    few = config(sampling=Sampling(num_inference_steps=2))
    result = diffusion.unlearn(pipeline, task.but(prompts=[""]), few)
    assert result.certificate.question.guidance_scale == 1
    assert not result.measured.at_scales


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "magic"}, "leave method out"),
        ({"config": config(fit=FitConfig(method="esd"))}, "fitted by tilted or guidance, got 'esd'"),
        ({"config": config(ratios=RatiosConfig(num_samples=10)), "prompts": [str(k) for k in range(11)]}, "10 for 11"),
        ({"config": config(fit=FitConfig(foresee=True))}, "the method is 'tilted', and 'guidance' is"),
        ({"config": config(fit=FitConfig(foresee=True, method="guidance"))}, "none of bright has them"),
        ({"levels": "1%"}, "60 cannot show a level of 0.01"),
    ],
)
def test_refused_before_any_sample(change, words, monkeypatch):
    import diffusion.ratios.detected as detected

    def none(*_arguments, **_named):
        raise AssertionError("sampled")

    monkeypatch.setattr(detected, "sample_latents", none)
    given = {"levels": "0.5x", "prompts": PROMPTS} | {k: v for k, v in change.items() if k in ("levels", "prompts")}
    task = ConceptTask(concepts=[Concept("seven", detector=bright)], **given)
    more = {"method": change["method"]} if "method" in change else {}
    with pytest.raises(ValueError, match=words):
        diffusion.unlearn(build(families.sd), task, change.get("config", config()), **more)


def test_what_holds_already_is_not_trained_where_no_prompt_is_to_have_the_law_of_another():
    task = ConceptTask(concepts=[Concept("seven", detector=lambda images: 0 * images[:, 0, 0, 0])], levels="20%")
    own = Prompts(["one", {"prompt": "seven", "anchor": "seven"}])
    with pytest.raises(NothingToDo, match="no training was begun: by 40 samples under the law of prompts, 'seven' is"):
        diffusion.unlearn(build(families.sd), task.but(prompts=own), config())
    with pytest.raises(NothingToDo, match=r"at most 0\.2 was asked$"):  # and no word of samples that nobody counts
        diffusion.unlearn(build(families.sd), task.but(prompts=own), config(evaluation=EvaluationConfig(samples=0)))


def test_what_ratios_have_no_use_for():
    task = ConceptTask(concepts=["seven"], levels="20%", retained_prompts=["one"])
    counting = config(
        sampling=Sampling(num_inference_steps=2), evaluation=EvaluationConfig(samples=60, sequential=True)
    )
    with pytest.raises(ValueError, match="sequential: samples are counted as they come where detectors define"):
        diffusion.unlearn(build(families.sd), task, counting)
    aimed = counting.but(evaluation=EvaluationConfig(samples=60, aim=0.5))
    for change in ({"problem": "reverse-kl", "levels": "0.3"}, {"problem": "forward-kl", "levels": "0.3x"}):
        with pytest.raises(ValueError, match=r"aim: a part of a share is meant, 0\.5 was given"):
            diffusion.unlearn(build(families.sd), task.but(**change), aimed)


def test_ratios_are_of_guidance_scale_one():
    task = ConceptTask(concepts=["seven"], levels="20%", retained_prompts=["one"])
    with pytest.raises(ValueError, match="those of guidance scale 1; a detector"):
        diffusion.unlearn(build(families.sd), task, config())


def test_detectors_that_change_between_calls_are_found_out():
    pipeline = build(families.sd)
    task = ConceptTask(concepts=[Concept("seven", detector=lambda images: images[:, 0, 0, 0] * 9)], levels="0.5x")
    with pytest.raises(ValueError, match=r"must say numbers in \[0, 1\]"):
        diffusion.unlearn(pipeline, task.but(prompts=PROMPTS), config())


def test_the_schema_of_the_certificate_is_json():
    schema = DetectorCertificate.model_json_schema()
    assert json.loads(json.dumps(schema))["title"]
