"""``diffusion.unlearn``: one call on every family that takes prompts, and what it refuses before any work."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import diffusion
import duality as du
from diffusion.api import is_digits, prompts_of
from diffusion.evaluation.pairs import PAIRED
from diffusion.methods import METHODS, Tilted, method_of
from diffusion.pipelines import denoiser_of, load_pipeline
from diffusion.pipelines.fingerprint import fingerprint
from diffusion.pipelines.sampling import sample_latents
from diffusion.tasks.config import EvaluationConfig, FitConfig
from diffusion.tasks.task import Concept, ConceptTask
from diffusion.training.lora import base_model
from tests.diffusion import families, jobs
from tests.diffusion.families import build
from tests.diffusion.jobs import UNMEASURED, forget, unlearn
from tests.diffusion.methods.conftest import made
from tests.marks import slow_but

TINY = jobs.TINY | {"method": made("tilted")}
TASK = {"retained": ["one", ("three", "a handwritten three")], "priors": 0.1}


def images(count, seed=0):
    """Pillow images of 16x16 pixels, bright ones."""
    values = np.random.default_rng(seed).integers(180, 256, size=(count, 16, 16, 3), dtype=np.uint8)
    return [Image.fromarray(value) for value in values]


class quiet:
    """No progress bar."""

    def __init__(self, title, total):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def update(self, count):
        pass


def test_importing_the_package_is_light():
    code = "import sys, diffusion; print(sorted({'torch', 'diffusers', 'numpy', 'duality'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_missing_extra_is_named():
    code = "import sys; sys.modules['diffusers'] = None; import diffusion; diffusion.unlearn('digits', ['seven'], None)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "install unlearning-duality[diffusion]" in out.stderr.splitlines()[-1]


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
@pytest.mark.parametrize("family", slow_but(["sd", "sdxl", "sd3"], "sd"))
def test_one_call_unlearns(family, tmp_path):
    pipeline = build(families.FAMILIES[family])
    before = sample_latents(pipeline, [""], seed=0, steps=2)
    result = unlearn(
        pipeline,
        [["seven", "a handwritten seven"], "eight"],
        du.ReverseKL([0.3, 0.2]),
        **TASK,
        **TINY,
        output=tmp_path / "out",
        bar=quiet,
    )
    assert result.solution.multipliers.shape == (2,)
    assert len(result.losses) == 2
    after = sample_latents(pipeline, [""], seed=0, steps=2)
    assert not torch.equal(before, after)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"pytorch_lora_weights.safetensors", "certificate.json", "README.md"} <= written
    proof = json.loads((tmp_path / "out" / "certificate.json").read_text(encoding="utf-8"))
    assert proof["fitted_model"]["fit"]["method"] == repr(made("tilted"))
    fresh = build(families.FAMILIES[family])
    fresh.load_lora_weights(tmp_path / "out")
    np.testing.assert_allclose(
        sample_latents(fresh, [""], seed=0, steps=2), after, atol=1e-4 * float(after.abs().max())
    )


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
@pytest.mark.parametrize(
    "full", [pytest.param(False, id="LoRA"), pytest.param(True, id="all weights", marks=pytest.mark.slow)]
)
def test_a_second_run_on_one_pipeline_has_to_say_from_what(full):
    """Not: samples of the changed model, a fit against the original, and the first unlearning gone without a word."""
    pipeline = build(families.sd)
    settings = UNMEASURED | {"fit": UNMEASURED["fit"].but(rank=2, full_weights=full, learning_rate=1e-2)}

    def run():
        concepts = [["seven", "a handwritten seven"]]
        return unlearn(pipeline, concepts, du.ReverseKL(0.3), **TASK, **settings, bar=quiet)

    original = fingerprint(pipeline)
    plain = sample_latents(pipeline, ["one"], seed=0, steps=2)
    first = run()
    assert first.estimate.fingerprint == original
    fitted = sample_latents(pipeline, ["one"], seed=0, steps=2)
    for call in (run, lambda: forget(pipeline, images(1), prompts="one", levels=5.0, data=images(12))):
        with pytest.raises(ValueError, match=r"diffusion.merge\(pipeline\) .* diffusion.undo\(pipeline\)"):
            call()
    assert torch.equal(sample_latents(pipeline, ["one"], seed=0, steps=2), fitted)  # refused, and left as it was
    diffusion.undo(pipeline)
    assert fingerprint(pipeline) == original
    assert torch.equal(sample_latents(pipeline, ["one"], seed=0, steps=2), plain)
    second = run()
    assert torch.equal(second.estimate.anchor, first.estimate.anchor)
    fitted = sample_latents(pipeline, ["one"], seed=0, steps=2)
    diffusion.merge(pipeline)
    merged = fingerprint(pipeline)
    assert merged != original
    scale = float(fitted.abs().max())
    np.testing.assert_allclose(sample_latents(pipeline, ["one"], seed=0, steps=2), fitted, atol=1e-4 * scale)
    third = run()
    assert third.estimate.fingerprint == merged
    with base_model(denoiser_of(pipeline)):  # what is sampled before the fit is what the fit starts from
        base = sample_latents(pipeline, ["one"], seed=0, steps=2)
    np.testing.assert_allclose(base, fitted, atol=1e-4 * scale)


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
def test_stages_are_numbered_in_their_order():
    seen = []

    class Noted(quiet):
        def __init__(self, title, total):
            seen.append(title)

    unlearn(build(families.sd), ["seven"], du.ReverseKL(0.3), **TASK, **TINY, bar=Noted)
    numbers = [title.split()[0] for title in seen]
    assert numbers[:8] == [f"{k}/8" for k in range(1, 9)]
    assert all("/" not in number for number in numbers[8:])  # what an evaluation does beside has no number


class Failing(Exception):
    pass


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
def test_whatever_fails_after_the_fit_the_fit_is_kept(tmp_path, monkeypatch, capsys):
    def fails(*_arguments, **_more):
        raise Failing

    monkeypatch.setattr("diffusion.workflows.concepts.measure_lora", fails)
    pipeline = build(families.sd)
    original = fingerprint(pipeline)
    with pytest.raises(Failing):
        unlearn(pipeline, ["seven"], du.ReverseKL(0.3), **TASK, **TINY, output=tmp_path / "out", bar=quiet)
    kept = tmp_path / "out.unfinished"
    assert str(kept) in capsys.readouterr().err
    proof = json.loads((kept / "certificate.json").read_text(encoding="utf-8"))
    assert proof["certified"] is False
    assert "before the fitted network was measured" in proof["fitted_model"]["reasons"][0]
    assert proof["question"]["problem"] == "ReverseKL"
    fresh = build(families.sd)
    fresh.load_lora_weights(kept)
    assert fresh.get_active_adapters()
    assert not (tmp_path / "out").exists()
    assert fingerprint(pipeline) == original  # and the next run begins with the pipeline that was given


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
def test_a_fit_of_one_step_is_not_certified_and_the_level_and_its_bound_are_named(tmp_path):
    """Images that a random model never makes: their share has to fall under the concept's prompts, and cannot."""
    result = unlearn(
        build(families.sd),
        ["seven"],
        ("Likelihood", "0.999x"),
        **TASK,
        **(
            TINY
            | {
                "evaluation": EvaluationConfig(samples=60, retained_samples=4, integrated=4),
                "fit": FitConfig(max_train_steps=1, train_batch_size=6, rank=1),
            }
        ),
        output=tmp_path / "out",
        bar=quiet,
    )
    proof = result.certificate
    assert not proof.certified
    assert not proof.fitted_model.passed
    missed = [level for level in result.measured.levels if not level.met]
    assert missed
    assert any(f"at most {missed[0].bound.value:.4g} at 95 % confidence" in reason for reason in proof.objections)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "(not certified)" in card
    assert "**Not certified**" in card
    assert {level.prompts for level in result.measured.levels} == {"anchor", "concept"}
    assert {each.prompts for each in result.measured.costs} == {"anchor", "concept"}
    # None of the samples start from the noise of those that were solved on.
    seeds = {sample.noise for name, sample in result.samples.items() if name.startswith("LoRA, ") and name != PAIRED}
    assert len(seeds) == 4
    assert result.estimate.budget.anchor_seed not in seeds


def test_methods_by_name_or_by_value():
    assert isinstance(method_of("tilted"), Tilted)
    mine = Tilted()
    assert method_of(mine) is mine
    assert all(callable(make) for make in METHODS.values())


def test_the_embedded_pipeline_brings_its_own_prompts():
    assert is_digits(load_pipeline("digits"))
    digits = denoiser_of(load_pipeline("digits"))
    both = ["a handwritten seven", "two"]
    made = prompts_of(digits, ConceptTask(concepts=both, levels="1%"))
    assert [concept.name for concept in made.concepts] == ["a handwritten seven", "two"]
    assert len(made.contrast) == 8
    shares = [Concept(text, prior=share) for text, share in zip(both, (0.2, 0.3), strict=True)]
    assert prompts_of(digits, ConceptTask(concepts=shares, levels="1%")).priors == (0.2, 0.3)
    task = ConceptTask(
        concepts=[Concept("cat | kitten", prior=0.2)],
        levels="1%",
        retained_prompts=["dog"],
        anchor="a photo of an animal",
    )
    given = prompts_of(digits, task)
    assert given.anchor == "a photo of an animal"
    assert given.concepts[0].prior == 0.2
