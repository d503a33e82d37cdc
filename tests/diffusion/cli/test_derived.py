"""Options that come from the fields: precedence of flags over files over defaults, results as models, the dry run."""

import contextlib
import json
import sys

import pytest
from safetensors.torch import load_file

pytest.importorskip("typer")

import torch
import yaml

from diffusion.api import prompts_of
from diffusion.cli import main as cli
from diffusion.cli.derived import merged, read_files, with_job
from diffusion.pipelines import denoiser_of
from diffusion.runtime import progress
from diffusion.tasks.config import SECTIONS, Config
from diffusion.workflows import dry_run
from diffusion.workflows.concepts import unlearn
from tests.diffusion import families, jobs
from tests.diffusion.cli.commands import SETTINGS, error, run
from tests.diffusion.families import build
from tests.diffusion.methods.conftest import made

pytestmark = pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")


def seen(*words, sections=("fit", "runtime"), **more):
    """The job that a command with these options is called with."""
    import typer

    found, app = [], typer.Typer()
    app.command()(with_job(*sections, **more)(lambda job: found.append(job)))
    with contextlib.suppress(SystemExit):
        app([str(word) for word in words])
    return found[0]


def test_flags_go_over_files_and_files_over_defaults(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("fit: {rank: 3, train_batch_size: 5}\nruntime: {seed: 4}\ntask: {concepts: [seven]}\n")
    job = seen("model", "--config", path, "--rank", "2")
    assert (job.config.fit.rank, job.config.fit.train_batch_size, job.config.fit.max_train_steps) == (2, 5, 340)
    assert (job.config.runtime.seed, job.config.fit.seed, job.config.ratios.seed) == (4, 4, 4)
    assert job.said == {"concepts": ["seven"]}
    assert seen("model", "--config", path, "--seed", "9").config.fit.seed == 9


def test_a_seed_on_the_command_line_is_everybodys(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("fit: {seed: 3}\n")
    assert seen("model", "--config", path).config.fit.seed == 3
    assert seen("model", "--config", path, "--seed", "9").config.fit.seed == 9


def test_a_preset_takes_the_place_of_defaults_and_of_nothing_else(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("fit: {train_batch_size: 5}\nevaluation: {samples: 70}\n")
    presets = {"presets": {"quick": "a look", "frugal": "and a certificate"}}
    assert seen("model", **presets).config == Config()
    assert seen("model", "--quick", **presets).config == Config.quick()
    config = seen("model", "--quick", "--config", path, "--max-train-steps", "7", "--seed", "3", **presets).config
    assert (config.fit.train_batch_size, config.fit.max_train_steps, config.evaluation.samples) == (5, 7, 70)
    assert (config.fit.fixed_multipliers, config.ratios.num_samples, config.ratios.seed) == (True, 256, 3)
    assert seen("model", "--frugal", **presets).config == Config.frugal()


def test_presets_that_could_not_count_are_refused(monkeypatch, capsys, tmp_path):
    asked = ("--concept", "seven", "--level", "1%", "--output", tmp_path / "out", "--dry-run")
    both = error(monkeypatch, capsys, "distill", "digits", "--quick", "--frugal", *asked)
    assert "quick and frugal are two presets; one is needed" in both
    (tmp_path / "task.yaml").write_text("model: digits\nconcepts: [seven]\nlevels: 1%\n")
    (tmp_path / "config.yaml").write_text(Config().to_yaml())
    assert "is a result, which says every setting" in error(monkeypatch, capsys, "distill", tmp_path, "--quick", *asked)


def test_every_field_that_has_an_option_has_it_once():
    every = [name for name in SECTIONS if name != "runtime"]
    job = seen("model", sections=[*every, "runtime"])
    assert job.config == Config()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("magic: {}", "magic is none of sampling"),
        ("fit: 3", "fit must hold names and values, got 3"),
        ("fit: {rank: 0}", "rank must be at least 1"),
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path, text, words):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        merged(read_files(path)[1], {}, {}, Config())


def test_help_is_in_named_groups_and_fits_two_screens(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "argv", ["unlearn", "distill", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    out = capsys.readouterr().out
    for title in ("Task", "Sampling", "Ratio estimation", "Training", "Evaluation", "Run"):
        assert f" {title} " in out
    assert len(out.splitlines()) <= 90
    for option in (
        "--learning-rate",
        "--max-train-steps",
        "--train-batch-size",
        "--report-to",
        "--num-inference-steps",
    ):
        assert option in out


def help_of(monkeypatch, capsys, command):
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(sys, "argv", ["unlearn", command, "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("distill", ["forward-kl [likelihood]", "equal-weights [tilted]", "[estimated]", "[empty]", "[float32]"]),
        ("forget", ["'unseen 90%' [unseen]", "[samples]", "[counted]", "siss, erasediff [tilted]"]),
    ],
)
def test_help_shows_defaults_that_are_words(monkeypatch, capsys, command, words):
    shown = help_of(monkeypatch, capsys, command)
    assert [each for each in words if each not in shown] == []


@pytest.mark.parametrize(
    ("command", "useless"),
    [
        ("forget", ["--guidance-scale", "--negative-prompt", "--fixed-multipliers", "--evaluation-sequential"]),
        ("bench", ["--report-to", "--checkpointing-steps", "--fixed-multipliers", "--early-stopping-rounds"]),
        ("audit", ["--guidance-scale", "--negative-prompt", "--report-to"]),
        ("ratios", ["--guidance-scale", "--negative-prompt", "--logging-dir"]),
        ("sample", ["--report-to", "--checkpointing-steps"]),
    ],
)
def test_a_command_has_no_option_that_it_does_not_read(monkeypatch, capsys, command, useless):
    """All of them are options of `distill`, which reads them, so none is misspelt here."""
    every, shown = (help_of(monkeypatch, capsys, one) for one in ("distill", command))
    assert [each for each in useless if f"{each} " not in every] == []
    assert [each for each in useless if f"{each} " in shown] == []


def test_bench_has_the_methods_in_place_of_the_one_of_a_fit(monkeypatch, capsys):
    shown = help_of(monkeypatch, capsys, "bench")
    assert shown.count("--method") == 2  # itself and its plural: no other
    assert "only this one; repeat" in shown


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """A folder with a model and what `unlearn distill` makes of it."""
    place = tmp_path_factory.mktemp("derived")
    build(families.sd).save_pretrained(place / "sd")
    (place / "small.yaml").write_text(SETTINGS, encoding="utf-8")
    words = ("distill", place / "sd", "--config", place / "small.yaml", "--concept", "seven | a handwritten seven")
    more = ("--retained-prompt", "one", "--prior", "0.1", "--level", "0.99x", "--max-train-steps", "2", "--rank", "1")
    out = ("--evaluation-samples", "80", "--fixed-multipliers", "--seed", "5", "--cache-folder", place / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["unlearn", *map(str, (*words, *more, *out, "--output", place / "out"))])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
    return place / "out"


def test_task_and_configuration_are_beside_the_result(result):
    task = yaml.safe_load((result / "task.yaml").read_text(encoding="utf-8"))
    config = yaml.safe_load((result / "config.yaml").read_text(encoding="utf-8"))
    concept = {"prompts": ["seven", "a handwritten seven"], "images": None, "prior": 0.1, "detector": None}
    assert task["concepts"] == [concept]
    assert task["levels"] == ["0.99x"]
    assert (config["fit"]["rank"], config["fit"]["seed"], config["runtime"]["seed"]) == (1, 5, 5)
    assert "cache" not in str(config["runtime"]["cache_folder"])


def test_a_run_repeated_from_its_own_folder_gives_the_same_bits(monkeypatch, capsys, result, tmp_path):
    words = ("distill", result, "--cache-folder", tmp_path / "cache", "--output", tmp_path / "again")
    run(monkeypatch, capsys, *words)
    name = "pytorch_lora_weights.safetensors"
    one, two = load_file(result / name), load_file(tmp_path / "again" / name)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    for name in ("task.yaml", "config.yaml"):
        assert (result / name).read_text() == (tmp_path / "again" / name).read_text()


def test_sample_and_audit_need_a_folder_and_nothing_else(monkeypatch, capsys, result, tmp_path):
    out = run(monkeypatch, capsys, "sample", result, "--count", "2", "--prompt", "one", "--output", tmp_path / "images")
    assert "2 images written" in out
    brief = ("--audit-samples", "4", "--audit-relearn-steps", "0", "--cache-folder", result.parent / "cache")
    stages = []

    class Told(progress.Lines):
        def __init__(self, title, *more):
            stages.append(title)
            super().__init__(title, *more)

    monkeypatch.setattr(progress, "Lines", Told)
    out = run(monkeypatch, capsys, "audit", result, *brief, "--output", tmp_path / "audit")
    assert "its paraphrases" in out
    assert "the certificate is of another" not in out
    assert stages == ["looking for the concept"]  # and none that has nothing to do
    assert json.loads((tmp_path / "audit" / "audit.json").read_text(encoding="utf-8"))["cells"]


def test_a_result_has_its_own_settings(monkeypatch, capsys, result, tmp_path):
    words = ("distill", result, "--config", result / "config.yaml", "--output", tmp_path / "out")
    assert "which has its own" in error(monkeypatch, capsys, *words)


def test_a_dry_run_says_what_a_run_costs_and_does_nothing(monkeypatch, capsys, result, tmp_path):
    out = run(monkeypatch, capsys, "distill", result, "--output", tmp_path / "out", "--dry-run")
    for words in ("1/8 samples of the base model", "5/8 training", "in all, at most", "ms in a batch"):
        assert words in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "fixed", [pytest.param(True, id="fixed multipliers", marks=pytest.mark.slow), pytest.param(False, id="corrected")]
)
def test_the_plan_counts_what_the_network_is_asked(fixed):
    """Rows through the network in a whole run, against the plan, which says `at most`."""
    pipeline = build(families.sd)
    denoiser = denoiser_of(pipeline)
    sections = jobs.TINY | {"fit": jobs.TINY["fit"].but(fixed_multipliers=fixed)}
    config, task = (
        Config(**sections),
        jobs.concept_task([["seven", "7"]], ("ReverseKL", "1.2x"), retained=["one"], priors=0.1),
    )
    if not fixed:
        task = jobs.concept_task([["seven", "7"]], ("Likelihood", "0.999x"), retained=["one"], priors=0.1)
        config = config.but(evaluation=config.evaluation.but(samples=60))
    prompts = prompts_of(denoiser, task)
    planned = sum(stage.evaluations for stage in dry_run.stages(denoiser, prompts, task.asked, config))
    rows = []

    def count(_module, given, named, _out):
        rows.append(len(given[0] if given else named["sample"]))

    hook = pipeline.unet.register_forward_hook(count, with_kwargs=True)
    method = None if fixed else made("tilted")
    unlearn(denoiser, prompts, task.asked, config, method=method)
    hook.remove()
    assert 0.5 * planned <= sum(rows) <= 1.1 * planned
