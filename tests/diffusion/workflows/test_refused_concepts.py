"""What cannot work, or need not be done, is said before any work."""

import pytest
from peft import LoraConfig

import duality as du
from diffusion.tasks.config import EvaluationConfig
from diffusion.workflows.validation import NothingToDo
from tests.diffusion import families
from tests.diffusion.families import build
from tests.diffusion.jobs import forget, unlearn
from tests.diffusion.workflows.test_concepts import TASK, TINY, images, quiet


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
    with pytest.raises(ValueError, match="samples must be at least 0, got -1"):
        EvaluationConfig(samples=-1)
    with pytest.raises(ValueError, match=r"confidence must be below 1, got 1.0"):
        EvaluationConfig(confidence=1.0)


def never_fitted(pipeline, problem, output, **settings):
    """A whole run, which fails where it comes to the fit."""

    class Never:
        fit = never

    given = TINY | {"method": Never()} | settings
    unlearn(pipeline, ["seven"], problem, **TASK, **given, output=output, bar=quiet)


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
def test_a_level_that_no_tilt_reaches_is_refused_before_training(pipeline, tmp_path):
    with pytest.raises(ValueError, match="level: 1000 nats lie beyond what any tilt of these samples reaches"):
        never_fitted(pipeline, du.ReverseKL(1e3), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
def test_where_the_model_meets_the_level_already_it_stops_and_says_so(pipeline, tmp_path):
    """A classifier of four steps is near the prior everywhere, 10 %: of at most 50 % there is nothing to be trained."""
    with pytest.raises(NothingToDo, match=r"no training was begun.*'seven' is at 0\.\d+, at most 0\.5 was asked"):
        never_fitted(pipeline, du.Likelihood(0.5), tmp_path / "out", evaluation=EvaluationConfig(samples=40))
    assert not (tmp_path / "out").exists()
