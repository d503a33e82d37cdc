"""`--export kohya` and `unlearn export`: the LoRA for ComfyUI and A1111, or an error before any work."""

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("typer")
import diffusion
from tests.diffusion import families, jobs
from tests.diffusion.cli.commands import TASK, error, run, small
from tests.diffusion.families import build
from tests.diffusion.training.test_kohya import said

pytestmark = [pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning"), pytest.mark.usefixtures("quick")]


@pytest.fixture(scope="module")
def words(place):
    return (
        *("distill", place / "sd", *TASK, "--prior", "0.1", "--level", "0.99x", *small(place)),
        *("--max-train-steps", "2", "--rank", "1", "--evaluation-samples", "0", "--fixed-multipliers"),
        *("--cache-folder", place / "cache"),
    )


def test_a_result_and_a_copy_of_it_are_the_same_network(monkeypatch, capsys, place, words, tmp_path):
    run(monkeypatch, capsys, *words, "--export", "kohya", "--output", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "`kohya.safetensors` is the same LoRA for ComfyUI and A1111" in card
    place_of_it = tmp_path / "gone.safetensors"
    shown = run(monkeypatch, capsys, "export", tmp_path / "out", "--output", place_of_it)
    layers = len(load_file(tmp_path / "out" / "pytorch_lora_weights.safetensors")) // 2
    assert f"{layers} layers written to {place_of_it}" in shown
    found = []
    for folder, name in (
        (tmp_path / "out", None),
        (tmp_path / "out", "kohya.safetensors"),
        (tmp_path, place_of_it.name),
    ):
        stock = build(families.sd)
        stock.load_lora_weights(folder, **({"weight_name": name} if name else {}))
        found.append(said(stock))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], said(build(families.sd)))


@pytest.mark.slow
def test_a_rerun_of_a_result_exports_again_and_a_run_without_leaves_none(monkeypatch, capsys, place, words, tmp_path):
    run(monkeypatch, capsys, *words, "--export", "kohya", "--output", tmp_path / "out")
    run(monkeypatch, capsys, "distill", tmp_path / "out", "--output", tmp_path / "again", "--overwrite")
    assert (tmp_path / "again" / "kohya.safetensors").is_file()
    run(monkeypatch, capsys, *words, "--output", tmp_path / "out", "--overwrite")
    assert not (tmp_path / "out" / "kohya.safetensors").exists()


def test_what_cannot_be_exported_is_refused_before_any_work(monkeypatch, capsys, place, words, tmp_path):
    def work(*_, **__):
        raise AssertionError("work was begun")

    monkeypatch.setattr("diffusion.api.run", work)
    monkeypatch.setattr("diffusion.api.run_on_images", work)
    asked = ("--export", "kohya", "--output", tmp_path / "out")
    assert "all weights are trained here" in error(monkeypatch, capsys, *words, "--full-weights", *asked)
    images = ("--image", place / "images" / "0.png", "--data", place / "images", "--level", "900")
    message = error(monkeypatch, capsys, "forget", place / "ddpm", *images, *asked)
    assert "names are known for StableDiffusionPipeline and StableDiffusionXLPipeline" in message
    assert "the model is a DDPMPipeline" in message
    build(families.sd3).save_pretrained(tmp_path / "sd3")
    planned = ("distill", tmp_path / "sd3", "--concept", "seven", "--level", "0.99x", *asked, "--dry-run")
    for more in (
        ("--retained-prompt", "one", "--prior", "0.1"),
        ("--detector", "os.path:exists", "--prompts", "one.txt"),
    ):
        if "--prompts" in more:
            (tmp_path / "one.txt").write_text("one\nseven\n", encoding="utf-8")
            more = (*more[:-1], tmp_path / "one.txt")
        assert "the model is a StableDiffusion3Pipeline" in error(monkeypatch, capsys, *planned, *more)
    assert "export must be one of 'kohya'" in error(monkeypatch, capsys, *words, "--export", "comfy", "--output", "x")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_families_without_names_are_refused_before_any_work(family, tmp_path, monkeypatch):
    monkeypatch.setattr("diffusion.api.run", lambda *_, **__: pytest.fail("work was begun"))
    pipeline = build(getattr(families, family))
    task = jobs.concept_task(["seven"], ("ReverseKL", "1.02x"), retained=["one"], priors=0.1)
    with pytest.raises(ValueError, match=f"the model is a {type(pipeline).__name__}"):
        diffusion.unlearn(pipeline, task, diffusion.Config(runtime={"export": "kohya"}), output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_goes_with_an_output():
    task = jobs.concept_task(["seven"], ("ReverseKL", "1.02x"), retained=["one"], priors=0.1)
    with pytest.raises(ValueError, match="export: kohya is written beside the result, and no output was given"):
        diffusion.unlearn(build(families.sd), task, diffusion.Config(runtime={"export": "kohya"}))


def test_the_command_refuses_what_it_cannot_read_or_write(monkeypatch, capsys, place, tmp_path):
    place_of_it = tmp_path / "gone.safetensors"
    assert "is no folder" in error(monkeypatch, capsys, "export", tmp_path / "none", "--output", place_of_it)
    assert "holds no LoRA" in error(monkeypatch, capsys, "export", place / "images", "--output", place_of_it)
    assert "must end in .safetensors" in error(monkeypatch, capsys, "export", place, "--output", tmp_path / "gone.pt")
    assert "format must be kohya" in error(
        monkeypatch, capsys, "export", place, "--format", "a1111", "--output", place_of_it
    )
    place_of_it.write_text("somebody's")
    assert "is there already" in error(monkeypatch, capsys, "export", place, "--output", place_of_it)
    assert place_of_it.read_text() == "somebody's"
    assert [each.name for each in tmp_path.iterdir()] == ["gone.safetensors"]


def test_forget_and_detectors_ask_before_they_begin(tmp_path, monkeypatch):
    """Every way to a fit looks at what is asked, not only the first."""
    monkeypatch.setattr("diffusion.api.unlearn_detected", lambda *_, **__: pytest.fail("work was begun"))
    task = diffusion.ConceptTask(
        concepts=[diffusion.Concept("one", detector=lambda images: images.mean((1, 2, 3)))],
        levels=["1%"],
        prompts=diffusion.Prompts(["one", "two"]),
    )
    with pytest.raises(ValueError, match="the model is a StableDiffusion3Pipeline"):
        diffusion.unlearn(
            build(families.sd3), task, diffusion.Config(runtime={"export": "kohya"}), output=tmp_path / "out"
        )
