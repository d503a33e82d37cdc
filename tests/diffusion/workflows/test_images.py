"""Forgetting images, from images to a folder: what is found out, what is refused, what is measured and written."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import diffusion
from diffusion.evaluation.image_likelihood import in_nats
from diffusion.methods import ForgetImages
from diffusion.methods.likelihood import negative_elbo
from diffusion.pipelines.latents import decode
from diffusion.reports.image_certificate import ImageCertificate
from diffusion.reports.save_images import save_comparison
from diffusion.tasks.config import Config, EvaluationConfig, FitConfig
from diffusion.tasks.image_task import ImageTask
from diffusion.tasks.images import read_task
from diffusion.training.lora import add_lora, base_model
from diffusion.workflows import image_levels as forget_settled
from diffusion.workflows import images as forget_run
from diffusion.workflows.image_levels import image_targets
from diffusion.workflows.validation import check_images
from tests.diffusion.families import build, ddpm, sd
from tests.diffusion.jobs import forget
from tests.diffusion.methods.conftest import make_denoiser

QUICK = ForgetImages(inner=1, warmup=0, noise_levels=1, repeats=2, extra=0)
BRIEF = FitConfig(max_train_steps=2, train_batch_size=6, rank=2)


def task_of(denoiser, images, **words):
    return read_task(denoiser, ImageTask(images, **words))


def random_samples(denoiser, count, seed=0):
    return torch.randn(count, *denoiser.sample_shape, generator=torch.Generator().manual_seed(seed)).clamp(-1, 1)


@pytest.fixture
def coarse(monkeypatch):
    """Integrals over few noise levels."""
    monkeypatch.setattr(forget_run, "NOISE_LEVELS", 4)
    monkeypatch.setattr(forget_run, "REPEATS", 3)


@pytest.fixture(scope="module")
def pixels():
    return make_denoiser("ddpm")


@pytest.fixture(scope="module")
def latents():
    return make_denoiser("sd")


# -- what is settled before the fit ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "setting"),
    [
        ("fit", {"fixed_multipliers": True}),
        ("fit", {"foresee": True}),
        ("fit", {"robust_rounds": 1}),
        ("fit", {"gain": 3.0}),
        ("evaluation", {"confidence": 0.9}),
        ("evaluation", {"concept_samples": 5}),
        ("evaluation", {"sequential": True}),
        ("evaluation", {"aim": 0.5}),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else given,
)
def test_what_images_have_no_use_for_is_refused(section, setting):
    check_images(Config())
    with pytest.raises(ValueError, match=f"{next(iter(setting))}: forgetting images has no use for it"):
        check_images(Config(**{section: setting}))


def test_shares_are_counted_in_the_data(pixels):
    some = random_samples(pixels, 10)
    data = torch.cat([some, some[:1].expand(4, -1, -1, -1), some[1:2]])
    found = image_targets(
        pixels, task_of(pixels, some[:2], data=data, levels=3.0), random_samples(pixels, 6, 1), [""] * 6
    )
    np.testing.assert_allclose(found.images.shares, [5 / 15, 2 / 15])
    np.testing.assert_array_equal(found.shares_stderr, 0)
    assert len(found.images.data) == 15
    assert int(found.images.aside.sum()) == 7
    np.testing.assert_array_equal(found.levels, 3.0)
    np.testing.assert_array_equal(found.as_near, 0.0)


def test_without_data_samples_stand_for_it_and_their_copies_do_not(pixels):
    image = random_samples(pixels, 1, 5)
    drawn = random_samples(pixels, 20)
    drawn[[3, 8, 9]] = image + 0.01 * random_samples(pixels, 3, 6)
    found = image_targets(pixels, task_of(pixels, image, levels=3.0), drawn, [""] * 20)
    assert found.images.shares[0] == pytest.approx(3 / 20)
    assert found.shares_stderr[0] == pytest.approx((0.15 * 0.85 / 20) ** 0.5)
    kept = [j for j in range(20) if j not in (3, 8, 9)]
    assert torch.equal(found.images.data, drawn[kept])
    assert np.isnan(found.as_near[0])  # of samples alone, what is near is a copy
    said = image_targets(pixels, task_of(pixels, image, levels=3.0, shares=0.02), drawn, [""] * 20)
    np.testing.assert_array_equal(said.images.shares, 0.02)
    np.testing.assert_array_equal(said.shares_stderr, 0)
    with pytest.raises(ValueError, match=r"shares must be given .* no copy of image 1"):
        image_targets(pixels, task_of(pixels, image, levels=3.0), random_samples(pixels, 20), [""] * 20)


def test_each_prompt_has_its_own_data(latents):
    some = random_samples(latents, 12)
    texts = ("one",) * 6 + ("three",) * 6
    task = task_of(
        latents, some[[0, 6]], prompts=("one", "two"), data=some, data_prompts=texts, levels=[2.0, 3.0],
        shares=[0.1, 0.2],
    )  # fmt: skip
    assert task.asked == ["one", "two"]
    drawn = random_samples(latents, 8, 1)
    found = image_targets(latents, task, drawn, ["one", "two"] * 4)
    assert found.images.data_prompts == (*texts, *["two"] * 4)  # "one" has data, "two" gets samples
    assert torch.equal(found.images.data[12:], drawn[1::2])


def test_unseen_is_the_mean_surprise_of_held_out_pictures(latents, monkeypatch):
    data, unseen = random_samples(latents, 9), 3 * random_samples(latents, 3, 2)
    task = task_of(latents, data[:2], prompts="one", data=data, held_out=unseen)
    assert task.held_out_prompts == ("one",) * 3
    found = image_targets(latents, task, random_samples(latents, 4, 1), ["one"] * 4)
    value = negative_elbo(latents, torch.cat([data[:2], unseen]), latents.condition(["one"] * 5), levels=40, seed=0)
    np.testing.assert_allclose(found.levels, (value[2:].mean() - value[:2]).clamp_min(0).numpy(), rtol=1e-5)
    high = task_of(latents, data[:2], prompts="one", data=data, held_out=unseen, levels="unseen 90%")
    found = image_targets(latents, high, random_samples(latents, 4, 1), ["one"] * 4)
    np.testing.assert_allclose(found.levels, (value[2:].quantile(0.9) - value[:2]).clamp_min(0).numpy(), rtol=1e-5)
    monkeypatch.setattr(forget_settled, "as_unseen", lambda *_, **__: np.zeros(2))
    with pytest.raises(ValueError, match="already as unlikely"):
        image_targets(latents, task, random_samples(latents, 4, 1), ["one"] * 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": "1 %"}, "level must be nats, one for all images or one each"),
        ({"levels": "unseen"}, "needs held_out"),
        ({"levels": "unseen 0%"}, "a quantile such as 'unseen 90%'"),
        ({"levels": "unseen often"}, "a quantile such as 'unseen 90%'"),
        ({"levels": "unseen 90%"}, "needs held_out"),
        ({"levels": [1.0, 2.0]}, "levels must be one for all or one for each of 3"),
        ({"levels": 0.0}, "levels must be positive"),
        ({"levels": float("nan")}, "levels must be positive"),
        ({"shares": 1.0}, "shares must be positive and add up to less than 1 under each prompt, got .1.0, 1.0, 1.0"),
        ({"shares": 0.4}, "add up to less than 1 under each prompt, got .0.4, 0.4, 0.4"),
        ({"shares": float("nan")}, "shares must be positive"),
        ({"shares": [0.1, 0.1]}, "shares must be one for all or one for each of 3"),
        ({"prompts": ("one",)}, "prompts must be one for all or one for each of 3"),
        ({"prompts": ("one", "two", "one")}, "data_prompts must be given where images have different prompts"),
        ({"data_prompts": ("one",) * 3}, "data_prompts must be one for all or one for each of 5"),
        ({"data": []}, "data must be a list of images"),
        ({"data": "folder"}, "data must be a list of images"),
        ({"data": torch.zeros(4, 4, 3, 3)}, "data must have shape"),
        ({"held_out": [Image.new("RGB", (5, 5))]}, "held_out: image 0 must have mode RGB and 16x16"),
        ({"images": torch.zeros(0, 4, 8, 8)}, "images must hold 1 to 64, got 0"),
        ({"images": torch.zeros(65, 4, 8, 8)}, "images must hold 1 to 64, got 65"),
        ({"images": [Image.new("L", (16, 16))]}, "images: image 0 must have mode RGB"),
    ],
)
def test_what_does_not_fit_is_named(latents, change, message):
    some = random_samples(latents, 5)
    given = {"images": some[:3], "prompts": "one", "data": some, "levels": 1.0, **change}
    with pytest.raises(ValueError, match=message):
        task_of(latents, given.pop("images"), **given)


def test_a_pipeline_without_prompts_takes_none(pixels):
    with pytest.raises(ValueError, match="DDPMPipeline takes none"):
        task_of(pixels, random_samples(pixels, 1), prompts="a dog", levels=1.0)


# -- the run --------------------------------------------------------------------------------------------------------


def pictures_of(pipeline, denoiser, count):
    rng = np.random.default_rng(0)
    shape = decode(pipeline, random_samples(denoiser, 1)).shape[2:]
    return [Image.fromarray(rng.integers(0, 256, size=(*shape, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.mark.parametrize(("make", "prompt"), [(ddpm, ""), (sd, "one")])
def test_one_call_from_pictures_to_a_folder(make, prompt, tmp_path, coarse):
    pipeline = build(make)
    denoiser = make_denoiser("ddpm" if make is ddpm else "sd")
    images = pictures_of(pipeline, denoiser, 9)
    result = forget(
        pipeline, images[:2], prompts=prompt, data=[*images, images[0]], held_out=images[6:],
        levels=[500.0, 700.0],
        method=QUICK, evaluation=EvaluationConfig(samples=6), fit=BRIEF,
        output=tmp_path / "out", cache_folder=tmp_path / "cache",
    )  # fmt: skip
    assert (
        sorted(path.name for path in (tmp_path / "out").iterdir())[:2] == ["README.md", "adapter_config.json"]
        or (tmp_path / "out" / "pytorch_lora_weights.safetensors").exists()
    )
    text = (tmp_path / "out" / "certificate.json").read_text(encoding="utf-8")
    proof = ImageCertificate.model_validate_json(text)
    assert proof == result.certificate
    assert [share.mean for share in proof.shares.shares] == [0.2, 0.1]
    assert proof.solution.relative_gap < 1e-9
    assert proof.certified is False  # two steps do not get there, and it says so
    assert "image 1 gained" in proof.objections[0]
    assert prompt == "" or prompt not in json.loads(text)["question"].values()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "LoRA that forgets 2 images" in card
    assert ("PeftModel" in card) == (make is ddpm)
    assert (tmp_path / "out" / "samples.png").stat().st_size > 1000
    assert result.before.shape == result.after.shape == (2, *result.images.shape[1:])
    save_comparison(result, tmp_path / "look.png")
    assert (tmp_path / "look.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="not empty"):
        forget(pipeline, images[:1], levels=1.0, output=tmp_path / "out")
    diffusion.undo(pipeline)  # else the pipeline would be refused: from which model is the second run to start?
    again = forget(
        pipeline, images[:2], prompts=prompt, data=[*images, images[0]], held_out=images[6:],
        levels=[500.0, 700.0],
        method=QUICK, evaluation=EvaluationConfig(samples=6), fit=BRIEF, cache_folder=tmp_path / "cache",
    )  # fmt: skip
    assert again.measured == result.measured


def test_nothing_that_is_written_shows_or_names_the_images(tmp_path, coarse):
    """Names and prompts of images are in no file, and no sheet is a sheet of them."""
    pipeline, denoiser = build(sd), make_denoiser("sd")
    paths = []
    for number, picture in enumerate(pictures_of(pipeline, denoiser, 6)):
        paths.append(tmp_path / f"secret-face-{number}.png")
        picture.save(paths[-1])
    forget(
        pipeline, paths[:1], prompts="secretword", data=paths, levels=500.0, method=QUICK,
        evaluation=EvaluationConfig(samples=6), fit=BRIEF, output=tmp_path / "out",
    )  # fmt: skip
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {"certificate.json", "README.md", "samples.png", "task.yaml", "config.yaml"} <= {
        path.name for path in written
    }
    image = np.asarray(Image.open(paths[0]).convert("RGB"))
    for path in written:
        data = path.read_bytes()
        assert b"secret" not in data, path.name
        assert str(tmp_path).encode() not in data, path.name
        assert image.tobytes() not in data
        assert paths[0].read_bytes() not in data


def test_what_is_measured_after_the_fit(latents):
    data, unseen = random_samples(latents, 9), random_samples(latents, 3, 2)
    task = task_of(latents, data[:2], prompts="one", data=data, held_out=unseen, levels=1.0)
    targets = image_targets(latents, task, random_samples(latents, 4, 1), ["one"] * 4)
    add_lora(latents, 2, 0)

    def measured():
        return in_nats(latents, targets.images, task.held_out, ["one"] * 3, seed=1, noise_levels=12, repeats=8)

    same = measured()
    assert [drop.mean for drop in same.elbo_drop] == [0.0, 0.0]
    assert (same.cost.mean, same.cost.stderr) == (0.0, 0.0)
    with torch.no_grad():
        for name, value in latents.network.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.5, generator=torch.Generator().manual_seed(3))
    moved = measured()
    condition = latents.condition(["one"] * 2)
    now = negative_elbo(latents, data[:2], condition, levels=60, seed=9)
    with base_model(latents):
        before = negative_elbo(latents, data[:2], condition, levels=60, seed=9)
    for drop, value in zip(moved.elbo_drop, (now - before).tolist(), strict=True):
        assert abs(drop.mean - value) < 4 * drop.stderr + 0.1 * abs(value)
        assert drop.n == 8
    assert moved.cost.mean > 0
    assert moved.held_out_elbo_drop.mean != 0


def test_a_run_that_cannot_work_ends_before_it_samples(latents):
    with pytest.raises(ValueError, match="method must be one of"):
        forget(latents.pipeline, random_samples(latents, 1), levels=1.0, method="esd")
    with pytest.raises(ValueError, match="7"):
        forget(
            latents.pipeline,
            random_samples(latents, 1),
            levels=1.0,
            fit=FitConfig(train_batch_size=7, gradient_accumulation_steps=2),
        )
    with pytest.raises(ValueError, match="samples must be at least 3 for each of 1 prompts"):
        forget(latents.pipeline, random_samples(latents, 1), levels=1.0, evaluation=EvaluationConfig(samples=2))
