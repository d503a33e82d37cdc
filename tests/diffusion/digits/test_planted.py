"""The study of planted images: its measures against independent ones, and the whole of it at a tiny size."""

from pathlib import Path

import numpy as np
import pytest
import torch

from diffusion.digits.data import WORDS
from diffusion.digits.experiments import planted, planted_prompts
from diffusion.digits.experiments.planted_measures import features, similarity
from diffusion.digits.experiments.planted_model import REPEATS, make_stage, seeded, train
from diffusion.digits.experiments.planted_report import reading, table, thresholds
from diffusion.digits.planted_study import PlantedStudy
from diffusion.evaluation.kid import kid, kid_change
from diffusion.methods import IMAGE_METHODS, SISS, ForgetImages, NegGrad, OnImages, TiltedImages
from diffusion.pipelines import denoiser_of, load_pipeline
from diffusion.pipelines.images import read_folder
from diffusion.tasks.image_task import ImageTask
from diffusion.tasks.images import read_task


def test_stage_plants_odd_held_out_digits_as_often_as_it_says():
    stage = make_stage(0)
    assert sorted(stage.repeats) == list(REPEATS)
    assert len(stage.data) == len(stage.digits) + sum(REPEATS)
    together = torch.cat([stage.planted, stage.held_out, stage.digits]).flatten(1)
    assert len(together.unique(dim=0)) == 1797  # every real digit once, in one of the three parts
    counts = [(stage.data == image).flatten(1).all(1).sum() for image in stage.planted]
    assert [int(count) for count in counts] == stage.repeats.tolist()
    np.testing.assert_allclose(stage.shares, stage.repeats / len(stage.data))
    near = similarity(features(stage.held_out), features(stage.digits)).max(1)
    assert similarity(features(stage.planted), features(stage.digits)).max() <= near.min()
    assert make_stage(1).repeats.tolist() != stage.repeats.tolist()


def test_similarity_is_one_for_a_copy_and_never_more():
    stage = make_stage(0)
    value = similarity(features(stage.planted), features(stage.planted))
    np.testing.assert_allclose(np.diag(value), 1)
    assert value.max() <= 1 + 1e-12
    assert (value - np.eye(8)).max() < 0.9


def test_kid_is_the_polynomial_mmd_of_torchmetrics():
    mmd = pytest.importorskip("torchmetrics.image.kid").poly_mmd
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 6)), rng.normal(size=(40, 6)) + 0.3
    assert kid(x, y).value == pytest.approx(float(mmd(torch.tensor(x), torch.tensor(y))), rel=1e-9)
    with pytest.raises(ValueError, match="two samples"):
        kid(x[:1], y)


def test_standard_errors_are_the_scatter_over_samples():
    rng = np.random.default_rng(1)
    y = rng.normal(size=(90, 4))
    found, some, changes, changes_of_some = [], [], [], []
    for _ in range(200):
        x = rng.normal(size=(120, 4)) + 0.4
        moved = x + 0.1 + 0.2 * rng.normal(size=x.shape)  # paired with x, as samples from common noise are
        found.append(kid(x, y))
        changes.append(kid_change(x, moved, y))
        kept_x, kept_moved = x[:, 0] > 0.2, moved[:, 0] > 0.25  # not the same rows, and not as many
        some.append(kid(x, y, kept_x))
        changes_of_some.append(kid_change(x, moved, y, kept_x, kept_moved))
    for repeated in (found, some, changes, changes_of_some):
        scatter = np.std([one.value for one in repeated], ddof=1)
        assert np.mean([one.stderr for one in repeated]) == pytest.approx(scatter, rel=0.2)
    x = rng.normal(size=(50, 4))
    assert kid_change(x, x + 0.2, y).value == pytest.approx(kid(x + 0.2, y).value - kid(x, y).value)


def test_kid_of_some_draws_is_that_of_these_samples_alone():
    rng = np.random.default_rng(2)
    x, y, kept = rng.normal(size=(60, 4)), rng.normal(size=(30, 4)), rng.random(60) < 0.6
    assert kid(x, y, kept).value == pytest.approx(kid(x[kept], y).value)
    assert kid(x, y, kept).stderr == pytest.approx(kid(x[kept], y).stderr, rel=0.03)
    with pytest.raises(ValueError, match="two samples"):
        kid(x, y, np.zeros(60, bool))


def test_reading_counts_copies():
    stage = make_stage(0)
    rng = np.random.default_rng(0)
    reference = stage.digits[rng.permutation(len(stage.digits))]
    drawn = torch.cat([stage.held_out[:95], stage.planted[2].expand(4, -1, -1, -1), stage.planted[5:6]])
    found = reading(drawn, stage.planted, thresholds(reference, stage.planted))
    assert found.copies.hits >= 5
    assert found.each[2] >= 0.04
    assert (found.nearest[2], found.nearest[5]) == (95, 99)
    assert found.largest[2] == pytest.approx(1)


def test_training_resumes(tmp_path):
    stage = make_stage(0)
    settings = {"rate": 1e-3, "seed": 0, "batch": 4}

    def weights(pipeline):
        return torch.cat([value.flatten() for value in pipeline.unet.parameters()])

    once, again = seeded(3), seeded(3)
    assert torch.equal(weights(once), weights(again))
    train(once, stage.digits, tmp_path / "a", steps=2, **settings)
    train(seeded(3), stage.digits, tmp_path / "a", steps=2, **settings)  # finished already: nothing is trained
    train(again, stage.digits, tmp_path / "b", steps=2, **settings)
    assert torch.equal(weights(once), weights(again))


def test_the_study_in_the_docs_says_what_the_docs_say():
    path = Path(__file__).parents[3] / "docs" / "images" / "planted.json"
    result = PlantedStudy.model_validate_json(path.read_text(encoding="utf-8"))
    assert result.to_json() == path.read_text(encoding="utf-8")
    text = table(result)
    assert "0.94 ± 0.11 %" in text
    assert "8 of 8" in text
    assert "never shown    0.83 ± 0.10 %" in text
    fewer = result.images.model_copy(update={"levels": (1e3, *result.images.levels[1:])})
    assert "7 of 8" in table(result.model_copy(update={"images": fewer}))


@pytest.mark.slow
def test_the_study_runs_and_runs_again_from_what_it_left(tmp_path, monkeypatch):
    monkeypatch.setattr(planted, "SAMPLER_STEPS", 2)
    monkeypatch.setattr(planted, "NOISE_LEVELS", 1)
    monkeypatch.setattr(planted, "REPEATS", 2)
    quick = {"noise_levels": 1, "repeats": 2}
    methods = {
        "tilted": lambda: TiltedImages(inner=1, extra=0, **quick),
        "primal-dual": lambda: ForgetImages(inner=1, extra=0, **quick),
        "siss": lambda: OnImages(SISS(), **quick),
    }
    for name, small in methods.items():
        monkeypatch.setitem(IMAGE_METHODS, name, small)
    size = {"seed": 0, "steps": 2, "further": 1, "fit_steps": 2, "samples": 12, "methods": list(methods)}
    result = planted.run(tmp_path, **size)
    assert PlantedStudy.model_validate_json((tmp_path / "study.json").read_text(encoding="utf-8")) == result
    assert (tmp_path / "study.png").stat().st_size > 10_000
    text = table(result)
    assert text.count("rank correlation") == 2
    for name in methods:
        measured = result.fits[name].measured
        assert len(measured.elbo_drop) == 8
        assert f"{measured.cost.mean:.2f} ± {measured.cost.stderr:.2f}" in text
        assert measured.held_out_elbo_drop.stderr > 0
    over = {name: model.kid_over_solved_without_copies for name, model in result.models.items()}
    assert over["tilted"].mean == over["tilted"].stderr == 0
    assert over["siss"].mean == pytest.approx(
        result.models["siss"].kid_without_copies.mean - result.models["tilted"].kid_without_copies.mean
    )
    (tmp_path / "samples" / "siss.safetensors").unlink()
    again = planted.run(tmp_path, **size)
    for part in ("images", "models", "fits"):
        assert getattr(again, part) == getattr(result, part)


@pytest.mark.slow
def test_a_text_to_image_pipeline_with_planted_images(tmp_path):
    folder = tmp_path / "out"
    planted_prompts.run(folder, seed=0, steps=1, work=tmp_path / "work")
    images, prompts = read_folder(folder / "forget", "image")
    assert len(set(prompts)) == len(images) == 4
    task = read_task(denoiser_of(load_pipeline(str(folder / "model"))), ImageTask(images, prompts=prompts, levels=1.0))
    files, texts = read_folder(folder / "data", "data")
    assert len(files) == len(make_stage(0).digits) + sum(planted_prompts.COPIES)
    bytes_of = [file.read_bytes() for file in files]
    counts = sorted(bytes_of.count(image.read_bytes()) for image in images)
    assert counts == sorted(planted_prompts.COPIES)
    assert set(texts) == {f"a handwritten {word}" for word in WORDS}
    assert task.images.shape == (4, 4, 8, 8)
    with pytest.raises(ValueError, match="not empty"):
        planted_prompts.run(folder, seed=0, steps=1, work=tmp_path / "work")


def test_baselines_are_asked_for_by_name_and_at_strengths_of_their_own():
    assert planted.method_named("siss=2") == OnImages(SISS(2.0))
    assert planted.method_named("neggrad") == OnImages(NegGrad())
    assert planted.method_named("neggrad=0.98").rule.beta == 0.98
    assert isinstance(planted.method_named("tilted"), TiltedImages)
    for name, needed in (
        ("tilted=2", "siss=STRENGTH"),
        ("siss=", "siss=STRENGTH"),
        ("siss=much", ""),
        ("esd", "tilted"),
    ):
        with pytest.raises(ValueError, match=f"must be one of .*{needed}.*, got '{name}'"):
            planted.method_named(name)
