"""Runs without evaluation samples: images to look at, no figure of the network, no certificate; what plans count."""

import pytest

import diffusion
import duality as du
from diffusion.evaluation.pairs import LOOKED_AT
from diffusion.pipelines import denoiser_of
from diffusion.reports.certificate import Certificate
from diffusion.reports.detector_certificate import DetectorCertificate
from diffusion.reports.verdicts import UNASKED
from diffusion.tasks.config import EvaluationConfig, FitConfig
from diffusion.tasks.task import Concept, ConceptTask
from diffusion.workflows.dry_run import stages_detected
from tests.diffusion import families
from tests.diffusion.families import build
from tests.diffusion.jobs import unlearn
from tests.diffusion.workflows.test_concepts import TASK, TINY, quiet
from tests.diffusion.workflows.test_detected import PROMPTS, config, threshold

pytestmark = pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning", "ignore::duality.SmallGroupsWarning")


def rows_of(pipeline):
    """Numbers of rows that the network is asked for from now on."""
    rows = []

    def count(_module, given, named, _out):
        rows.append(len(given[0] if given else named["sample"]))

    pipeline.unet.register_forward_hook(count, with_kwargs=True)
    return rows


@pytest.mark.parametrize("method", ["tilted", "guidance"])
def test_by_detectors_nothing_is_measured_and_nothing_certified(method, tmp_path):
    pipeline = build(families.sd)
    task = ConceptTask(concepts=[Concept("seven", detector=threshold(pipeline))], levels="1%", prompts=PROMPTS)
    bare = config(evaluation=EvaluationConfig(samples=0), fit=config().fit.but(fixed_multipliers=True, method=method))
    planned = stages_detected(denoiser_of(pipeline), task.law, task.constraints, bare)
    rows = rows_of(pipeline)
    result = diffusion.unlearn(pipeline, task, bare, output=tmp_path / "out")
    proof = DetectorCertificate.model_validate_json((tmp_path / "out" / "certificate.json").read_text())
    assert proof == result.certificate
    assert not proof.certified
    assert proof.fitted_model.reasons == (UNASKED,)
    assert (proof.fitted_model.measured.levels, proof.fitted_model.measured.costs) == ((), ())
    (asked,) = proof.question.levels
    assert asked.level == asked.solved_level == 0.01  # no room for what nobody counts
    assert result.solution.levels[0] == pytest.approx(0.01, abs=1e-9)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# LoRA that was to unlearn 'seven' (not measured, not certified)" in card
    assert "## Nothing was measured" in card
    assert [words for words in ("fresh samples", "bounds and", "Cost along", "| met |") if words in card] == []
    assert (tmp_path / "out" / "before_after.png").stat().st_size > 1000
    # What is planned: 8 images before and after, and nothing else behind the fit.
    assert [stage.evaluations for stage in planned[-2:]] == [2 * 8 * 2 * 2, 0]
    assert sum(rows) <= sum(stage.evaluations for stage in planned)


@pytest.mark.slow
def test_the_plan_counts_what_the_network_is_asked():
    """Rows through the network in a whole run and a trial sample; two thirds of a gradient are no forward pass."""
    pipeline = build(families.sd)
    task = ConceptTask(concepts=[Concept("seven", detector=threshold(pipeline))], levels="0.5x", prompts=PROMPTS)
    fixed = config(fit=config().fit.but(fixed_multipliers=True))
    planned = {
        each.name: each.evaluations
        for each in stages_detected(denoiser_of(pipeline), task.law, task.constraints, fixed)
    }
    rows, trial, backward = rows_of(pipeline), 2 * 2, 2 * 2 * 6
    diffusion.unlearn(pipeline, task, fixed)
    assert (
        planned["training"] == 2 * 6 * 6
    )  # both branches of the base model, one of the student that stays, a gradient
    assert sum(rows) == sum(planned.values()) - backward + trial


@pytest.mark.parametrize("problem", [("Likelihood", "0.98x"), du.ReverseKL(0.3)])
def test_by_ratios_nothing_is_measured_and_nothing_certified(problem, tmp_path):
    """A level that a run with few samples would refuse; images to look at, and not a number of the network."""
    none = {
        "evaluation": EvaluationConfig(samples=0),
        "method": None,
    }  # the one that the fit names, without corrections
    none["fit"] = FitConfig(max_train_steps=1, train_batch_size=6, rank=1, fixed_multipliers=True)
    result = unlearn(
        build(families.sd), ["seven"], problem, **TASK, **(TINY | none), output=tmp_path / "out", bar=quiet
    )
    proof = Certificate.model_validate_json((tmp_path / "out" / "certificate.json").read_text(encoding="utf-8"))
    assert proof == result.certificate
    assert not proof.certified
    assert proof.fitted_model.reasons == (UNASKED,)
    assert proof.question.levels == proof.question.solved_levels
    assert proof.question.samples == 0
    assert (result.measured.levels, result.measured.costs, result.measured.shares) == ((), (), ())
    assert set(result.samples) == {"before, anchor", *LOOKED_AT}
    assert all(not sample.said for sample in result.samples.values())
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "# LoRA that was to unlearn 'seven' (not measured, not certified)" in card
    assert "## Nothing was measured" in card
    assert [
        words for words in ("can show it", "How often", "## Cost", "## Levels", "bounds and") if words in card
    ] == []
    assert (tmp_path / "out" / "before_after.png").stat().st_size > 1000
