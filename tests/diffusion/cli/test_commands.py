"""The pipeline commands end to end, on a tiny pipeline in a folder: what they print, write and keep."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("typer")


from diffusion.cli import main as cli
from diffusion.evaluation.audit_table import AuditReport
from diffusion.evaluation.benchmark_table import MethodRun, Table
from diffusion.reports.ratios import RatiosReport
from tests.diffusion import families
from tests.diffusion.cli.commands import TASK, error, run, small
from tests.diffusion.families import build

pytestmark = [pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning"), pytest.mark.usefixtures("quick")]


def test_ratios_of_two_concepts_under_one_classifier(monkeypatch, capsys, place, tmp_path):
    out = run(
        monkeypatch,
        capsys,
        *("ratios", place / "sd", *TASK, "--prior", "0.1", "--prior", "0.2", *small(place)),
        *("--elbo-samples", "6", "--elbo-noise-levels", "2", "--path-steps", "2", "--cache-folder", place / "cache"),
        *("--level", "0.99x", "--output", tmp_path / "r.json"),
    )
    for words in (
        "'seven': prior 0.1",
        "'eight': prior 0.2",
        "where each constraint stands",
        "path, at its own samples",
    ):
        assert words in out
    report = RatiosReport.model_validate_json((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert {row.concept for row in report.estimators.agreement} == {"seven", "eight"}
    asked = report.levels.rows[report.levels.asked]
    now = [each.now.mean for each in report.levels.ranges if each.problem == "likelihood"]
    np.testing.assert_allclose(asked.levels, 0.99 * np.array(now))
    assert out.splitlines()[-len(report.checks) :] == [str(check) for check in report.checks]
    assert "WARN    classifier, held-out samples told apart of 'seven': AUC" in out  # random weights know nothing


def test_a_cache_of_another_model_is_not_used(monkeypatch, capsys, place, tmp_path):
    words = (
        "ratios",
        place / "sd",
        *TASK,
        "--prior",
        "0.1",
        *small(place),
        "--elbo-samples",
        "4",
        "--elbo-noise-levels",
        "2",
    )
    run(monkeypatch, capsys, *words, "--path-steps", "2", "--cache-folder", tmp_path)
    (file,) = tmp_path.glob("labelled-*")
    other = tmp_path / "other"
    build(families.sd, seed=1).save_pretrained(other)
    run(monkeypatch, capsys, words[0], other, *words[2:], "--path-steps", "2", "--cache-folder", tmp_path)
    (mine,) = set(tmp_path.glob("labelled-*")) - {file}
    # The other model's file under this one's name: named, not used, and computed again.
    right = mine.read_bytes()
    mine.write_bytes(file.read_bytes())
    monkeypatch.setattr(sys, "argv", ["unlearn", *map(str, (words[0], other, *words[2:], "--cache-folder", tmp_path))])
    with pytest.raises(SystemExit):
        cli.main()
    assert f"cache file {mine} is not used, it was made for" in capsys.readouterr().err
    assert mine.read_bytes() == right


@pytest.fixture(scope="module")
def lora(place):
    """What `unlearn distill` leaves, with neighbours from a vocabulary and samples of the model as the rest."""
    with pytest.MonkeyPatch.context() as patch:
        words = (
            *("distill", place / "sd", "--concept", "seven | a handwritten seven", "--prior", "0.1"),
            *("--vocabulary", place / "words.txt", "--level", "0.99x", "--max-train-steps", "2"),
            *("--rank", "1", "--evaluation-samples", "80", *small(place)),
            *("--cache-folder", place / "cache", "--output", place / "lora"),
        )
        patch.setattr(sys, "argv", ["unlearn", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
    return place / "lora"


def test_distill_leaves_lora_and_certificate(lora):
    proof = json.loads((lora / "certificate.json").read_text(encoding="utf-8"))
    assert proof["question"]["samples_of_q_stand_for_the_rest"] is True
    assert sorted(group[0] for group in proof["question"]["contrast"]) == ["one", "the digit 3 in ink", "two"]
    assert (lora / "pytorch_lora_weights.safetensors").is_file()


def test_sample_with_guidance_and_with_the_lora(monkeypatch, capsys, place, lora, tmp_path):
    words = ("sample", place / "sd", *TASK, "--prior", "0.1", "--level", "0.99x", *small(place))
    out = run(
        monkeypatch, capsys, *words, "--count", "2", "--cache-folder", place / "cache", "--output", tmp_path / "guided"
    )
    assert "2 images written" in out
    run(monkeypatch, capsys, *words, "--count", "2", "--lora", lora, "--output", tmp_path / "fitted")
    assert len(list((tmp_path / "fitted").glob("0*.png"))) == 2
    more = ("--count", "2", "--corrected", "--cache-folder", place / "cache", "--output", tmp_path / "corrected")
    out = run(monkeypatch, capsys, *words, *more)
    assert "| dual round | multipliers | levels measured |" in out
    assert "it is guidance that is corrected" in error(monkeypatch, capsys, *words, *more, "--lora", lora)


@pytest.mark.slow
def test_without_corrections_multipliers_are_the_solved_ones(monkeypatch, capsys, place, lora, tmp_path):
    words = (
        "distill",
        place / "sd",
        *TASK,
        "--prior",
        "0.1",
        "--level",
        "0.99x",
        *small(place),
        "--cache-folder",
        place / "cache",
    )
    brief = ("--max-train-steps", "1", "--rank", "1", "--evaluation-samples", "80", "--output", tmp_path / "out")
    assert "dual round" not in run(monkeypatch, capsys, *words, *brief, "--fixed-multipliers")
    assert json.loads((lora / "certificate.json").read_text(encoding="utf-8"))["fitted_model"]["dual_rounds"]
    message = error(monkeypatch, capsys, *words, *brief, "--overwrite", "--method", "siss", "--fixed-multipliers")
    assert "OnConcepts has no correction to leave out" in message


def test_audit_looks_everywhere(monkeypatch, capsys, place, lora, tmp_path):
    out = run(
        monkeypatch,
        capsys,
        *(
            "audit",
            place / "sd",
            "--lora",
            lora,
            "--concept",
            "seven | a handwritten seven",
            "--retained-prompt",
            "one",
        ),
        *(
            "--prior",
            "0.1",
            *small(place),
            "--audit-samples",
            "4",
            "--audit-guidance-scales",
            "3",
            "--audit-attacks",
            "concept-vector",
            "--audit-attacks",
            "completion",
            "--audit-relearn-steps",
            "2",
            "--audit-relearn-images",
            "3",
            "--audit-relearn-seeds",
            "1",
            "--audit-searches",
            "2",
        ),
        *("--cache-folder", place / "cache", "--output", tmp_path / "out"),
    )
    for words in (
        "nothing",
        "its paraphrases",
        "near it",
        "guidance 3",
        "4 steps",
        "DPM-Solver++",
        "unlearned, 'seven'",
    ):
        assert words in out
    report = AuditReport.model_validate_json((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))
    assert len(report.cells) == 3 + 4 + 4 + 2
    assert [(cell.prompts, cell.setting) for cell in report.cells[-2:]] == [
        ("attack", "concept vector"),
        ("attack", "completion"),
    ]
    assert report.cells[-1].detail == "from step 1 of 2; from step 1 of 2"
    assert [cell.samples for cell in report.cells] == [4] * 11 + [8] * 2
    # Samples of the base model are there for the next audit.
    assert [len(list((place / "cache").glob(f"{name}-*"))) for name in ("audit", "attack")] == [11, 2]
    assert all(each.estimate.mean <= each.bound.value for cell in report.cells for each in cell.after)
    assert [cell.guidance_scale for cell in report.cells if cell.setting == "guidance 3"] == [3.0, 3.0]
    (taught,) = report.relearned
    assert (taught.concept, [arm.steps for arm in taught.arms]) == ("seven", [(0, 1, 2)] * 3)
    assert "recall" in (tmp_path / "out" / "audit.txt").read_text(encoding="utf-8")
    with Image.open(tmp_path / "out" / "audit.png") as picture:
        lines = -(-len(report.cells) // 2)
        assert picture.height > 40 * lines  # a strip with a title for every row


def test_what_was_not_measured_can_be_audited(monkeypatch, capsys, place, lora, tmp_path):
    """`lora` for its cache alone: the same samples and classifier."""
    out = run(
        monkeypatch, capsys,
        *("distill", place / "sd", "--concept", "seven | a handwritten seven", "--prior", "0.1"),
        *("--vocabulary", place / "words.txt", "--level", "0.99x", "--max-train-steps", "1", "--rank", "1"),
        *("--evaluation-samples", "0", "--fixed-multipliers", *small(place)),
        *("--cache-folder", place / "cache", "--output", tmp_path / "bare"),
    )  # fmt: skip
    assert "0 evaluation samples: nothing is measured" in out
    assert "nothing was measured of the fitted network, as was asked" in out
    brief = ("--audit-samples", "4", "--audit-relearn-steps", "0", "--audit-guidance-scales", "3")
    proof = json.loads((tmp_path / "bare" / "certificate.json").read_text(encoding="utf-8"))
    proof["provenance"]["model_fingerprint"] = "another"
    (tmp_path / "bare" / "certificate.json").write_text(json.dumps(proof), encoding="utf-8")
    out = run(monkeypatch, capsys, "audit", tmp_path / "bare", *brief, "--cache-folder", place / "cache")
    assert "its paraphrases" in out
    assert "; the certificate is of another, another:" in out


@pytest.mark.slow
def test_bench_goes_on_where_it_stopped(monkeypatch, capsys, place, tmp_path):
    words = (
        *("bench", place / "sd", *TASK, "--prior", "0.1", "--level", "0.99x", *small(place)),
        *(
            "--seeds",
            "1",
            "--max-train-steps",
            "2",
            "--rank",
            "1",
            "--evaluation-samples",
            "4",
            "--cache-folder",
            place / "cache",
        ),
        *("--output", tmp_path / "out", "--method", "no training", "--method", "tilted"),
    )
    run(monkeypatch, capsys, *words)
    kept = (tmp_path / "out" / "tilted-0.json").read_text(encoding="utf-8")
    table = Table.model_validate_json((tmp_path / "out" / "bench.json").read_text(encoding="utf-8"))
    assert [row.method for row in table.rows] == ["no training", "tilted"]
    fit = MethodRun.model_validate_json(kept)
    assert len(fit.levels) == len(fit.multipliers) - 1 == 2  # one moment of a fit of two steps, and its end
    assert table.rows[1].of("cost").n == 1
    out = run(monkeypatch, capsys, *words, "--method", "neggrad")
    assert (tmp_path / "out" / "tilted-0.json").read_text(encoding="utf-8") == kept
    assert "neggrad" in out
    assert "level, seven" in out
    assert "belongs to another task" in error(monkeypatch, capsys, *words, "--max-train-steps", "3")


@pytest.mark.parametrize(
    ("section", "setting"),
    [("evaluation", "sequential: true"), ("evaluation", "aim: 0.5"), ("fit", "robust_rounds: 1")],
    ids=["sequential", "aim", "fit"],
)
def test_bench_refuses_what_it_would_pass_over(monkeypatch, capsys, place, tmp_path, section, setting):
    path = tmp_path / "config.yaml"
    path.write_text(f"{section}:\n  {setting}\n", encoding="utf-8")
    words = ("bench", place / "sd", *TASK, "--prior", "0.1", "--level", "0.99x", "--config", path)
    said = error(monkeypatch, capsys, *words, "--output", tmp_path / "out")
    assert "every method is compared as it is" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["bench", "recount"])
def test_what_is_not_solved_has_no_aim(monkeypatch, capsys, place, command):
    assert "No such option: --evaluation-aim" in error(monkeypatch, capsys, command, place, "--evaluation-aim", "0.5")


def test_a_model_without_prompts(monkeypatch, capsys, place, tmp_path):
    out = run(
        monkeypatch,
        capsys,
        *("ratios", place / "ddpm", "--examples", place / "images", "--prior", "0.1", *small(place)),
        *("--cache-folder", place / "cache", "--output", tmp_path / "r.json"),
    )
    assert "unlabelled samples of the model itself are the contrast" in out
    assert "classifier against q, cross-fitted" in out
    assert "path" not in out
    message = error(monkeypatch, capsys, "ratios", place / "ddpm", "--concept", "seven", "--prior", "0.1")
    assert "takes none" in message
