"""The command `unlearn forget`: levels in nats, with and without prompts, and what it refuses."""

import json

import numpy as np
import pytest

pytest.importorskip("typer")
from diffusion import methods
from diffusion.workflows import image_levels as forget_settled
from diffusion.workflows import images as forget_run
from tests.diffusion.cli.commands import error, run

pytestmark = [pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning"), pytest.mark.usefixtures("quick")]


@pytest.fixture
def quick_forgetting(monkeypatch):
    monkeypatch.setattr(forget_run, "NOISE_LEVELS", 2)
    monkeypatch.setattr(forget_run, "REPEATS", 2)
    brief = methods.ForgetImages(inner=1, warmup=0, noise_levels=1, repeats=2, extra=0)
    monkeypatch.setitem(methods.IMAGE_METHODS, "tilted", lambda: brief)


def forgetting(place, model, *more):
    images = place / "images"
    return (
        "forget", place / model, "--image", images / "0.png", "--image", images / "1.png", "--data", images,
        "--max-train-steps", 2, "--train-batch-size", 6, "--rank", 2, "--evaluation-samples", 6,
        "--num-inference-steps", 2, *more,
    )  # fmt: skip


def test_forget(monkeypatch, capsys, place, tmp_path, quick_forgetting):
    shown = run(
        monkeypatch, capsys, *forgetting(place, "sd", "--prompt", "one", "--level", "900", "--level", "800 nats"),
        "--comparison", tmp_path / "look.png", "--output", tmp_path / "out", "--cache-folder", tmp_path / "cache",
    )  # fmt: skip
    assert f"image 2: {place / 'images' / '1.png'}" in shown
    assert "certified: False" in shown
    assert "level not shown: image 2 gained" in shown
    proof = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert proof["question"]["levels"] == [900.0, 800.0]
    assert [share["mean"] for share in proof["shares"]["shares"]] == [1 / 12, 1 / 12]
    assert (tmp_path / "out" / "pytorch_lora_weights.safetensors").exists()
    assert (tmp_path / "look.png").exists()
    assert "0.png" not in (tmp_path / "out" / "README.md").read_text()  # what is to be forgotten is not named


def test_forget_without_prompts_as_unseen(monkeypatch, capsys, place, tmp_path, quick_forgetting):
    # Of a random network every image is about as unlikely.
    monkeypatch.setattr(forget_settled, "as_unseen", lambda _, images, *__, **___: np.full(len(images.forget), 5.0))
    run(
        monkeypatch, capsys, *forgetting(place, "ddpm", "--held-out", place / "images", "--share", "0.05"),
        "--output", tmp_path / "out", "--cache-folder", tmp_path / "cache",
    )  # fmt: skip
    proof = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert proof["question"]["levels_from"] == "held_out_mean"
    assert [share["mean"] for share in proof["shares"]["shares"]] == [0.05, 0.05]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--level", "2x"), "level must be nats"),
        (("--level", "unseen", "--level", "3"), "goes with no other"),
        (("--level", "-1"), "levels must be positive"),
        ((), "needs held_out"),
        (("--level", "1", "--method", "esd"), "method must be one of tilted, primal-dual"),
        (("--level", "1", "--image", "none.png"), "neither a file nor a folder"),
        (("--level", "1", "--held-out", "none"), "held-out 'none' is neither"),
        (("--level", "1", "--prompt", "a dog"), "takes none"),
        (("--level", "1", "--rank", "0"), "rank must be at least 1"),
        (("--level", "1", "--config", "guided.yaml"), "fixed_multipliers: forgetting images has no"),
    ],
)
def test_forget_refuses_before_any_work(monkeypatch, capsys, place, tmp_path, more, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "guided.yaml").write_text("sampling: {guidance_scale: 3}\nfit: {fixed_multipliers: true}\n")
    said = error(monkeypatch, capsys, *forgetting(place, "ddpm"), *more, "--output", tmp_path / "out")
    assert message in said
    assert not (tmp_path / "out").exists()
