"""What a small run leaves as its card: metadata that hubs read, nothing made up, and a snippet that runs as pasted."""

import re
import warnings
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

import duality as du
from diffusion.pipelines import denoiser_of, load_pipeline
from diffusion.pipelines.sampling import sample_latents
from diffusion.reports.base_model import base_of, license_of
from diffusion.reports.model_card import loading, with_metadata
from diffusion.tasks.config import EvaluationConfig, FitConfig
from diffusion.tasks.sampling import Sampling
from diffusion.training.lora import add_lora, save_student
from tests.diffusion import families
from tests.diffusion.families import build
from tests.diffusion.jobs import TINY, forget, unlearn
from tests.diffusion.methods.conftest import made
from tests.diffusion.workflows.test_concepts import quiet
from tests.diffusion.workflows.test_images import QUICK, random_samples

BRIEF = FitConfig(max_train_steps=2, train_batch_size=6, rank=1)


def pasted(folder, monkeypatch):
    """The card's Python, run in the card's folder: what it has defined."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", card, re.M | re.S)
    monkeypatch.chdir(folder)
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of stock libraries are theirs
        exec(compile(code, "README.md", "exec"), names)
    assert (folder / "sample.png").stat().st_size > 100
    return names


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Random models in folders, one with a licence in its card."""
    place = tmp_path_factory.mktemp("models")
    for name in ("sd", "ddpm"):
        build(families.FAMILIES[name]).save_pretrained(place / name)
    (place / "sd" / "README.md").write_text("---\nlicense: openrail++\n---\n# sd\n", encoding="utf-8")
    return place


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
@pytest.mark.parametrize("full_weights", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_snippet_of_a_run_on_concepts_runs_as_pasted(saved, full_weights, tmp_path, monkeypatch):
    pipeline = load_pipeline(str(saved / "sd"))
    unlearn(
        pipeline, [["seven", "a handwritten seven"]], du.ReverseKL(0.3), retained=["one"], priors=0.1,
        **TINY | {"fit": BRIEF.but(full_weights=full_weights), "method": made("tilted")},
        output=tmp_path / "out", bar=quiet,
    )  # fmt: skip
    names = pasted(tmp_path / "out", monkeypatch)
    after, again = (sample_latents(some, ["one"], seed=0, steps=2) for some in (pipeline, names["pipeline"]))
    base = sample_latents(load_pipeline(str(saved / "sd")), ["one"], seed=0, steps=2)
    assert float((after - again).abs().max()) <= 1e-4 * float(after.abs().max())
    assert not torch.allclose(after, base, atol=1e-6)
    data = ModelCard.load(tmp_path / "out" / "README.md").data
    assert (data.license, data.pipeline_tag, data.library_name) == ("openrail++", "text-to-image", "diffusers")
    assert data.tags == ["unlearning", *([] if full_weights else ["lora"])]
    assert data.base_model is None  # a folder is no name on a hub


def test_the_snippet_of_a_run_on_images_runs_as_pasted(saved, tmp_path, monkeypatch):
    pipeline = load_pipeline(str(saved / "ddpm"))
    some = random_samples(denoiser_of(pipeline), 6)
    forget(
        pipeline, some[:1], data=some, levels=500.0, method=QUICK, evaluation=EvaluationConfig(samples=6), fit=BRIEF,
        output=tmp_path / "out",
    )  # fmt: skip
    names = pasted(tmp_path / "out", monkeypatch)
    assert type(names["pipeline"].unet).__name__ == "PeftModel"
    data = ModelCard.load(tmp_path / "out" / "README.md").data
    assert (data.license, data.pipeline_tag) == (None, "unconditional-image-generation")


def test_the_snippet_for_an_embedded_model_runs_as_pasted(tmp_path, monkeypatch):
    denoiser = denoiser_of(load_pipeline("digits"))
    add_lora(denoiser, 1, 0)
    save_student(denoiser, tmp_path)
    base = base_of(denoiser)
    text = with_metadata(loading(base, False, "a handwritten seven", Sampling(num_inference_steps=2)), base, False)
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    assert "load_pipeline('digits')" in text
    assert base.license == "apache-2.0"
    pasted(tmp_path, monkeypatch)


def test_a_model_of_a_hub_is_named_as_the_base_model(tmp_path, monkeypatch):
    denoiser = denoiser_of(build(families.sd))
    denoiser.pipeline.register_to_config(_name_or_path="someone/some-model")
    base = base_of(denoiser)
    assert (base.hub, base.license) == (True, None)  # its card is not in the cache, and no licence is made up
    for full_weights, relation in ((False, "adapter"), (True, "finetune")):
        data = ModelCard(with_metadata(["# A"], base, full_weights)).data
        assert (data.base_model, data.base_model_relation) == ("someone/some-model", relation)
        assert "license" not in data.to_dict()
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: str(card))
    assert base_of(denoiser).license == "mit"


def test_a_model_that_nobody_named_is_left_to_be_filled_in():
    base = base_of(denoiser_of(build(families.sd)))
    assert (base.source, base.hub, base.embedded) == (None, False, False)
    lines = loading(base, False, "one", Sampling(num_inference_steps=2))
    assert lines[0] == "Base model: not known to this card."
    assert any("from_pretrained('BASE MODEL')  # the folder or hub name" in line for line in lines)
    base = base_of(denoiser_of(build(families.sd)))
    gone = denoiser_of(build(families.sd))
    gone.pipeline.register_to_config(_name_or_path="/no/such/folder/at all")
    assert not base_of(gone).hub


@pytest.mark.parametrize("text", ["", "no front matter", "---\nlicense: [a, b]\n---\n", "---\n: : :\n---\n"])
def test_a_licence_is_never_made_up(tmp_path, text):
    card = tmp_path / "README.md"
    assert license_of(card) is None
    card.write_text(text, encoding="utf-8")
    assert license_of(card) is None
    assert license_of(Path(tmp_path)) is None
