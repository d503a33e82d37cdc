"""`unlearn distill` where detectors define the concepts, from the command line alone."""

import json
import shutil

import pytest
import yaml
from safetensors.torch import load_file

pytest.importorskip("typer")

from diffusion.evaluation.recount import Recount
from tests.diffusion import families
from tests.diffusion.cli.commands import error, run
from tests.diffusion.families import build

pytestmark = pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning", "ignore::duality.SmallGroupsWarning")

CONFIG = """
sampling: {num_inference_steps: 2}
ratios: {num_samples: 40, noisings: 2, classifier_steps: 4}
fit: {max_train_steps: 2, train_batch_size: 6, rank: 1}
evaluation: {samples: 60, integrated: 4}
"""
# Of 40 samples of a network with random weights about half have more red than blue.
RED = "tests.diffusion.cli.test_detectors_cli:red"


def red(images):
    return (images[:, 0].mean(axis=(1, 2)) > images[:, -1].mean(axis=(1, 2))).astype(float)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detectors")
    build(families.sd).save_pretrained(folder / "sd")
    (folder / "run.yaml").write_text(CONFIG, encoding="utf-8")
    (folder / "prompts.csv").write_text("prompt,weight,anchor\nseven,1,a digit\none,2,\n,1,\n", encoding="utf-8")
    return folder


def words(place, *more):
    return (
        *("distill", place / "sd", "--concept", "seven", "--detector", RED, "--level", "0.7x"),
        *("--prompts", place / "prompts.csv", "--guidance-scale", "2", "--config", place / "run.yaml", *more),
    )


@pytest.mark.slow
def test_distill_and_again_from_its_own_folder(place, monkeypatch, capsys, tmp_path):
    cache = ("--cache-folder", tmp_path / "cache")
    out = run(monkeypatch, capsys, *words(place, "--output", tmp_path / "one", *cache))
    assert "under the law of prompts, by tests.diffusion.cli.test_detectors_cli:red" in out
    assert "at guidance scale 4, by" in out
    assert "certified: " in out
    task = yaml.safe_load((tmp_path / "one" / "task.yaml").read_text())
    assert [each["prompt"] for each in task["prompts"]["prompts"]] == ["seven", "one", ""]
    proof = json.loads((tmp_path / "one" / "certificate.json").read_text())
    assert proof["question"]["guidance_scale"] == 2
    again = ("--output", tmp_path / "two", "--cache-folder", tmp_path / "other")
    run(monkeypatch, capsys, "distill", "--config", tmp_path / "one", *again)
    one, two = (load_file(tmp_path / name / "pytorch_lora_weights.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all((one[name] == two[name]).all() for name in one)
    few = ("--evaluation-samples", "80", "--seed", "3", "--output", tmp_path / "recount.json")
    out = run(monkeypatch, capsys, "recount", tmp_path / "one", *few)
    said = json.loads((tmp_path / "recount.json").read_text())
    assert Recount.model_validate(said).model_dump(mode="json") == said
    assert said["evaluation"]["samples"] == 80
    assert said["sampling"]["guidance_scale"] == 2
    assert [each["asked"] for each in said["levels"]] == [each["level"] for each in proof["question"]["levels"]]
    assert said["shown"] == all(each["met"] for each in said["levels"])
    assert ("every level is shown again" in out) is said["shown"]
    assert said["model_fingerprint"] == said["certified_fingerprint"] == proof["provenance"]["model_fingerprint"]
    assert "of base model" not in out
    assert "is there already" in error(monkeypatch, capsys, "recount", tmp_path / "one", *few)
    # About half of all samples are red, and a tenth is not.
    stricter = shutil.copytree(tmp_path / "one", tmp_path / "stricter")
    (stricter / "task.yaml").write_text(yaml.safe_dump(task | {"levels": ["10%"]}), encoding="utf-8")
    proof["provenance"]["model_fingerprint"] = "another"
    (stricter / "certificate.json").write_text(json.dumps(proof), encoding="utf-8")
    out = run(monkeypatch, capsys, "recount", stricter, *few[:4], "--output", tmp_path / "no.json")
    assert "not shown again: 1 of 1 levels" in out
    assert f"of base model {said['model_fingerprint']}; the certificate is of another, another:" in out
    assert json.loads((tmp_path / "no.json").read_text())["shown"] is False
    assert "model must be the folder of a result" in error(monkeypatch, capsys, "recount", place / "sd")
    assert said["prompts"] is None
    # Under words of one's own, which no fit has seen; a level of a group needs prompts of that group.
    (place / "own.csv").write_text("prompt,group\na one at night,ones\n", encoding="utf-8")
    mine = ("recount", tmp_path / "one", *few[:4], "--prompts", place / "own.csv", "--output", tmp_path / "own.json")
    run(monkeypatch, capsys, *mine)
    own = json.loads((tmp_path / "own.json").read_text())
    assert [each["prompt"] for each in own["prompts"]] == ["a one at night"]
    assert own["levels"] != said["levels"]
    grouped = task | {"levels": ["90% in ones"], "prompts": {"prompts": [{"prompt": "one", "group": "ones"}]}}
    (stricter / "task.yaml").write_text(yaml.safe_dump(grouped), encoding="utf-8")
    told = error(monkeypatch, capsys, "recount", stricter, *few[:4], "--prompts", place / "prompts.csv")
    assert "no prompt that is asked is of the group 'ones'" in told
    few = ("--concept-samples", "10", "--retained-samples", "10", "--elbo-samples", "4", "--audit-samples", "4")
    more = ("--audit-relearn-steps", "0", "--cache-folder", tmp_path / "audits", "--output", tmp_path / "audit")
    out = run(monkeypatch, capsys, "audit", tmp_path / "one", *few, *more)
    assert "the certificate is of another" not in out
    cells = json.loads((tmp_path / "audit" / "audit.json").read_text())["cells"]
    assert {each["guidance_scale"] for each in cells} == {1, 2, 3, 7.5}  # the result's own among them
    for cell in cells:  # the concept's detector says it first, of both, and is no posterior
        assert [cell[when][0]["by"] for when in ("before", "after")] == [RED, RED]
        assert cell["after"][0]["bound"]["rule"] == "clopper_pearson"
    sampled = ("--count", "2", "--prompt", "one", "--output", tmp_path / "images")
    run(monkeypatch, capsys, "sample", tmp_path / "one", *sampled)
    assert len(list((tmp_path / "images").glob("*.png"))) >= 2


BLUE = "tests.diffusion.cli.test_detectors_cli:blue"


def blue(images):
    return 1 - red(images)


def test_what_is_kept_and_levels_of_groups(place, monkeypatch, capsys, tmp_path):
    (place / "groups.csv").write_text("prompt,group\none,ones\n,\n", encoding="utf-8")
    more = (
        *("distill", place / "sd", "--concept", "seven", "--detector", RED, "--prompts", place / "groups.csv"),
        *("--level", "0.8x; 0.9x in ones", "--keep", f"{BLUE}=0.5x in ones", "--guidance-scale", "1"),
        *("--config", place / "run.yaml", "--evaluation-sequential", "--cache-folder", tmp_path / "cache"),
    )
    out = run(monkeypatch, capsys, *more, "--output", tmp_path / "out")
    assert f"{BLUE!r} under the prompts of group 'ones', by {BLUE}" in out
    task = yaml.safe_load((tmp_path / "out" / "task.yaml").read_text())
    assert task["keep"] == [{"detector": BLUE, "level": "0.5x in ones", "concept": ""}]
    proof = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert [each["side"] for each in proof["question"]["levels"]] == ["upper", "upper", "lower"]
    assert {each["bound"]["rule"] for each in proof["fitted_model"]["measured"]["levels"]} == {"anytime"}
    wrong = ("--keep", "digits:nine", "--output", tmp_path / "other")
    assert "keep must be DETECTOR=LEVEL" in error(monkeypatch, capsys, *more, *wrong)
    ratios = ("distill", place / "sd", "--concept", "seven", "--level", "1%", "--keep", f"{BLUE}=50%")
    assert "levels of what is retained are of detectors" in error(monkeypatch, capsys, *ratios, *wrong[2:])


def test_the_plan(place, monkeypatch, capsys, tmp_path):
    out = run(monkeypatch, capsys, *words(place, "--output", tmp_path / "out", "--dry-run"))
    counts = {line[4:40].strip(): int(line[40:60].replace(",", "")) for line in out.splitlines()[1:7]}
    assert counts["samples of the prompts"] == 40 * 2 * 2
    assert counts["training"] == 2 * 6 * 6  # the law has the empty prompt
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--detector", RED), "detector must be one for each of 1 concepts, got 2"),
        (("--problem", "reverse-kl"), "must be likelihood where concepts have detectors"),
        (("--prior", "0.1"), "has no prior"),
        (("--guidance-scale", "0.5"), "guidance_scale must be at least 1, got 0.5"),
    ],
)
def test_what_does_not_fit(more, said, place, monkeypatch, capsys, tmp_path):
    assert said in error(monkeypatch, capsys, *words(place, "--output", tmp_path / "out", *more))


def test_samples_of_the_exact_target_without_training(place, monkeypatch, capsys, tmp_path):
    words_ = ("--concept", "seven", "--detector", RED, "--level", "0.7x", "--prompts", place / "prompts.csv")
    more = ("--config", place / "run.yaml", "--count", "6", "--prompt", "one", "--cache-folder", tmp_path / "cache")
    out = run(monkeypatch, capsys, "sample", place / "sd", *words_, *more, "--output", tmp_path / "images")
    assert "samples were made for 6" in out
    assert int(out.split(" samples were made")[0].split()[-1]) >= 6
    assert len(list((tmp_path / "images").glob("*.png"))) >= 6
    said = error(
        monkeypatch, capsys, "sample", place / "sd", *words_, *more, "--corrected", "--output", tmp_path / "other"
    )
    assert "rejection is exact" in said
    noisy = ("--by", "particles", "--scheduler", "DDPMScheduler")
    out = run(monkeypatch, capsys, "sample", place / "sd", *words_, *more, *noisy, "--output", tmp_path / "particles")
    assert "6 particles, " in out
    assert "effective sample size" in out
    assert len(list((tmp_path / "particles").glob("*.png"))) >= 6
    for given, why in ((("--by", "particles"), "take DDPMScheduler"), (("--by", "luck"), "rejection or particles")):
        other = ("sample", place / "sd", *words_, *more, *given, "--output", tmp_path / "other")
        assert why in error(monkeypatch, capsys, *other)


def test_commands_on_ratios_say_that_there_are_none(place, monkeypatch, capsys):
    few = ("--concept", "seven", "--detector", RED, "--level", "0.7x", "--config", place / "run.yaml")
    message = error(monkeypatch, capsys, "ratios", place / "sd", *few)
    assert "concepts with detectors have no ratios: distill, sample, recount and audit take them" in message


def test_a_result_without_detectors_has_nothing_to_recount(monkeypatch, capsys, tmp_path):
    (tmp_path / "task.yaml").write_text(
        "model: digits\nconcepts: [{prompts: [seven]}]\nlevels: [0.01]\n", encoding="utf-8"
    )
    (tmp_path / "config.yaml").write_text("{}\n", encoding="utf-8")
    assert "the concepts of this result have none: see audit" in error(monkeypatch, capsys, "recount", tmp_path)
