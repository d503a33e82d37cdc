"""``diffusion.unlearn``: one call on every family that takes prompts, and what it refuses before any work."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline
from peft import LoraConfig
from PIL import Image

import diffusion
import duality as du
from diffusion.api import is_digits, prompts_of
from diffusion.evaluation.pairs import PAIRED
from diffusion.guidance.sampling import guided_samples
from diffusion.methods import ESD, METHODS, PrimalDual, Tilted, method_of
from diffusion.pipelines import denoiser_of, load_pipeline
from diffusion.pipelines.fingerprint import fingerprint
from diffusion.pipelines.images import read_images
from diffusion.pipelines.sampling import sample_latents
from diffusion.tasks.concepts import ConceptLaw, Examples
from diffusion.tasks.config import EvaluationConfig, FitConfig
from diffusion.tasks.contrast_prompts import propose
from diffusion.tasks.task import Concept, ConceptTask
from diffusion.training.lora import base_model
from diffusion.workflows.validation import NothingToDo
from tests.diffusion import families, jobs
from tests.diffusion.families import build
from tests.diffusion.jobs import forget, unlearn
from tests.diffusion.methods.conftest import made

TINY = jobs.TINY | {"method": made("tilted")}
TASK = {"retained": ["one", ("three", "a handwritten three")], "priors": 0.1}


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
@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3"])
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


@pytest.fixture(scope="module")
def pipeline():
    return build(families.sd)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"concepts": []}, "at least one concept"),
        ({"concepts": "seven", "priors": None}, "concepts must be a list of prompts, got 'seven'"),
        ({"retained": "one"}, "retained_prompts must be a list"),
        ({"vocabulary": "one"}, "vocabulary 'one' is no file"),
        ({"retained": [], "vocabulary": ["Seven", " "]}, "vocabulary must hold prompts"),
        ({"priors": [1.5]}, "prior must be below 1, got 1.5"),
        ({"retained": ["Seven"]}, "neither contrast nor anchor"),
        ({"concepts": ["seven", "Seven "]}, "asks for two concepts"),
        ({"anchor": "seven"}, "neither contrast nor anchor"),
        ({"method": "magic"}, "method must be one of tilted"),
        ({"problem": du.ReverseKL([1.0, 2.0])}, "one for all or one for each of 1"),
        ({"problem": du.Likelihood(0.0)}, "strictly between 0 and 1"),
        ({"problem": du.Likelihood(1.5)}, "strictly between 0 and 1"),
        ({"problem": du.Likelihood(0.1, kind="density")}, "densities"),
        ({"pipeline": object()}, "got object"),
        ({"pipeline": "/no/such/folder"}, "neither an existing folder"),
    ],
)
def test_bad_input_is_refused_before_any_work(pipeline, monkeypatch, change, words):
    def never(*_arguments, **_more):
        raise AssertionError("work was begun")

    monkeypatch.setattr("diffusion.workflows.concepts.estimate_ratios", never)
    arguments = {"pipeline": pipeline, "concepts": ["seven"], "problem": du.Likelihood(0.01), **TASK, **change}
    with pytest.raises(ValueError, match=words):
        unlearn(**arguments)


def test_an_output_that_is_not_empty_is_refused_before_any_work(pipeline, monkeypatch, tmp_path):
    monkeypatch.setattr("diffusion.workflows.concepts.estimate_ratios", None)
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ValueError, match="not empty"):
        unlearn(pipeline, ["seven"], du.Likelihood(0.01), **TASK, output=tmp_path)


def style(module, *layers):
    """Somebody else's adapters."""
    module.add_adapter(LoraConfig(r=1, target_modules=list(layers)), "style")


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_adapters_of_others_are_refused_before_any_work(part, monkeypatch):
    monkeypatch.setattr("diffusion.workflows.concepts.estimate_ratios", None)
    monkeypatch.setattr("diffusion.workflows.images.sample_latents", None)
    carrying = build(families.sd)
    style(getattr(carrying, part), "to_q" if part == "unet" else "q_proj")
    with pytest.raises(ValueError, match=rf"{part} carries the adapters \['style'\]: fuse or unload them first"):
        unlearn(carrying, ["seven"], du.Likelihood(0.01), **TASK)
    with pytest.raises(ValueError, match=rf"{part} carries the adapters"):
        forget(carrying, images(1), prompts="one", levels=5.0, data=images(12))


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
@pytest.mark.parametrize("full", [False, True], ids=["LoRA", "all weights"])
def test_a_second_run_on_one_pipeline_has_to_say_from_what(full):
    """Not: samples of the changed model, a fit against the original, and the first unlearning gone without a word."""
    pipeline = build(families.sd)
    settings = TINY | {
        "fit": FitConfig(max_train_steps=2, train_batch_size=6, rank=2, full_weights=full, learning_rate=1e-2)
    }

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


def images(count, seed=0):
    """Pillow images of 16x16 pixels, bright ones."""
    values = np.random.default_rng(seed).integers(180, 256, size=(count, 16, 16, 3), dtype=np.uint8)
    return [Image.fromarray(value) for value in values]


def test_concepts_by_prompt_need_a_pipeline_with_prompts():
    pipeline = build(lambda: families.ddpm(DDPMPipeline))
    with pytest.raises(ValueError, match="DDPMPipeline takes none"):
        unlearn(pipeline, ["seven"], du.Likelihood(0.01), **TASK)
    with pytest.raises(ValueError, match="ESD needs a prompt for every concept"):
        unlearn(pipeline, [images(10)], du.Likelihood(0.01), priors=0.1, method=ESD())
    with pytest.raises(ValueError, match="at least 10"):
        unlearn(pipeline, [images(9)], du.Likelihood(0.01), priors=0.1)
    with pytest.raises(ValueError, match="PrimalDual of this problem needs a prompt for every concept"):
        unlearn(pipeline, [images(10)], du.ReverseKL(1.0), priors=0.1, method="primal-dual")
    with pytest.raises(ValueError, match="examples must have shape"):
        unlearn(pipeline, [torch.zeros(10, 3, 8, 8)], du.Likelihood(0.01), priors=0.1)


BRIEFLY = PrimalDual(inner=1, warmup=0, samples=4, noise_levels=1)


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
@pytest.mark.parametrize(
    ("method", "problem"),
    [
        (made("tilted"), ("ReverseKL", "1.2x")),
        (made("guidance"), ("ReverseKL", "1.2x")),
        (BRIEFLY, du.ForwardKL(0.2)),
        (BRIEFLY, ("Likelihood", "0.9x")),
    ],
    ids=["tilted", "guidance", "primal-dual, forward", "primal-dual, likelihood"],
)
def test_a_model_without_prompts_unlearns_what_pictures_show(method, problem, tmp_path):
    """Bright images, which a random network never makes: found by the classifier, and the run ends with a LoRA."""
    pipeline = build(lambda: families.ddpm(DDPMPipeline))
    result = unlearn(
        pipeline,
        [images(20)],
        problem,
        priors=0.1,
        sampling=TINY["sampling"],
        ratios=TINY["ratios"].but(concept_samples=20, retained_samples=30, noisings=4, classifier_steps=40),
        fit=TINY["fit"],
        # By this classifier the share is below a millionth: what samples show of that is not the matter here.
        evaluation=EvaluationConfig(samples=40, retained_samples=4, integrated=4, confidence=1e-6, power=0.99999),
        method=method,
        output=tmp_path / "out",
        bar=quiet,
    )
    assert result.estimate.examination[0].auc > 0.9
    assert result.solution.multipliers[0] > 0
    assert result.estimate.elbo.isnan().all()
    assert set(result.samples) == {"LoRA, anchor", "before, anchor", PAIRED}
    proof = json.loads((tmp_path / "out" / "certificate.json").read_text(encoding="utf-8"))
    assert proof["question"]["concepts"][0]["examples"] == 20
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
@pytest.mark.parametrize("vocabulary", [(), ("one", "two", "three", "the digit 8 in ink")])
def test_contrast_and_priors_may_be_left_out(pipeline, vocabulary, monkeypatch):
    """Samples of q stand for the rest. Random weights show nothing apart, so the estimate itself is put in by hand."""
    from diffusion.ratios import estimate as estimate_ratios

    monkeypatch.setattr(estimate_ratios, "unlabelled_prior", lambda *_: (0.25, 0.05))
    result = unlearn(
        build(families.sd),
        [["seven", "a handwritten seven"]],
        ("ReverseKL", "1.2x"),
        vocabulary=vocabulary,
        **TINY,
        bar=quiet,
    )
    assert result.estimate.prompts.priors == (0.25,)
    assert result.estimate.priors_stderr == (0.05,)
    assert len(result.estimate.prompts.contrast) == len(vocabulary)
    assert int((result.estimate.labels == 2).sum()) == (5 if vocabulary else 10)
    assert ("LoRA, retained" in result.samples) is bool(vocabulary)


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
def test_concepts_by_pictures_of_a_pipeline_with_prompts():
    result = unlearn(
        build(families.sd),
        [images(12)],
        ("ReverseKL", "1.2x"),
        retained=["one"],
        priors=0.1,
        **TINY,
        bar=quiet,
    )
    assert result.estimate.prompts.concepts[0].examples is not None
    assert "LoRA, concept" not in result.samples
    assert "LoRA, retained" in result.samples
    denoiser = denoiser_of(build(families.sd))
    plain = sample_latents(denoiser.pipeline, ["one"] * 2, seed=0, steps=2)
    guided = guided_samples(denoiser, result.estimate, result.solution.guidance, ["one"] * 2, seed=0, bar=quiet)
    assert not torch.equal(plain, guided)
    assert bool(torch.isfinite(guided).all())


def test_neighbours_share_words_with_the_concept():
    """A random text encoder still maps prompts that differ in one token close together."""
    denoiser = denoiser_of(load_pipeline("digits"))
    some = ["someone wrote the number one by hand", "the digit eight in ink", "one", "a handwritten three", "SEVEN"]
    found = propose(denoiser, [ConceptLaw(("a handwritten seven", "seven"), 0.1)], [*some, ""], count=2)
    assert len(found) == 2
    assert {each.prompt for each in found} <= set(some[:-1])
    assert found[0].closeness >= found[1].closeness
    assert "near 'a handwritten seven'" in str(found[0])
    with pytest.raises(ValueError, match="no use"):
        propose(denoiser, [ConceptLaw((), 0.1, Examples(torch.zeros(10, 4, 8, 8)))], some)


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
def test_an_infeasible_level_is_refused_before_training(pipeline, monkeypatch):
    """A classifier of four steps tells nothing apart: every posterior is near the prior, and a millionth cannot be
    had."""

    class Never:
        def fit(self, *_arguments, **_more):
            raise AssertionError("training was begun")

    with pytest.raises(du.InfeasibleError, match="least"):
        unlearn(
            pipeline,
            ["seven"],
            du.Likelihood(0.01),
            **TASK,
            **(TINY | {"method": Never(), "evaluation": EvaluationConfig(samples=300)}),
            bar=quiet,
        )


def never(*_arguments, **_more):
    raise AssertionError("work was begun")


def test_too_few_samples_to_show_a_level_are_refused_before_any_work(pipeline, monkeypatch):
    monkeypatch.setattr("diffusion.workflows.concepts.estimate_ratios", never)
    for problem in (du.Likelihood(0.01), ("Likelihood", "1%")):
        with pytest.raises(ValueError, match=r"298 cannot show a level of 0\.01 .* at least 299 are needed"):
            unlearn(pipeline, ["seven"], problem, **TASK, evaluation=EvaluationConfig(samples=298))
    with pytest.raises(ValueError, match=r"at least 299573227[0-9] are needed"):
        unlearn(pipeline, ["seven"], du.Likelihood(1e-9), **TASK)
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        EvaluationConfig(samples=0)
    with pytest.raises(ValueError, match=r"confidence must be below 1, got 1.0"):
        EvaluationConfig(confidence=1.0)


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
def test_where_the_model_meets_the_level_already_it_stops_and_says_so(pipeline, tmp_path):
    """A classifier of four steps is near the prior everywhere, 10 %: of at most 50 % there is nothing to be trained."""

    class Never:
        fit = never

    with pytest.raises(NothingToDo, match=r"no training was begun.*'seven' is at 0\.\d+, at most 0\.5 was asked"):
        unlearn(
            pipeline,
            ["seven"],
            du.Likelihood(0.5),
            **TASK,
            **(TINY | {"method": Never(), "evaluation": EvaluationConfig(samples=40)}),
            output=tmp_path / "out",
            bar=quiet,
        )
    assert not (tmp_path / "out").exists()


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


def test_pictures_are_read_as_they_are(pipeline, tmp_path):
    values = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    Image.fromarray(values).save(tmp_path / "good.png")
    made = read_images(pipeline, [tmp_path / "good.png", Image.fromarray(values)])
    assert made.shape == (2, 3, 16, 16)
    np.testing.assert_allclose(made[1], 2 * (values.transpose(2, 0, 1) / 255.0) - 1, atol=1e-6)
    Image.fromarray(values[:8]).save(tmp_path / "small.png")
    Image.fromarray(values[..., 0]).save(tmp_path / "grey.png")
    (tmp_path / "text.png").write_text("no image")
    for some, words in (
        ([tmp_path / "small.png"], "16x16 pixels, got mode RGB and 16x8"),
        ([tmp_path / "good.png", tmp_path / "grey.png"], "grey.png' must have mode RGB"),
        ([tmp_path / "text.png"], "cannot be read"),
        ([tmp_path / "absent.png"], "cannot be read"),
        ([], "at least one"),
        (str(tmp_path / "good.png"), "list of paths"),
    ):
        with pytest.raises(ValueError, match=words):
            read_images(pipeline, some)
