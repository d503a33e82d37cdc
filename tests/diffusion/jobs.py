"""`diffusion.unlearn` and `diffusion.forget` with a task and a configuration made from keywords, for short tests."""

import diffusion
from diffusion.tasks.config import Config, EvaluationConfig, FitConfig, RatiosConfig, Sampling
from diffusion.tasks.image_task import ImageTask
from diffusion.tasks.task import Concept, ConceptTask

#: Sections small enough for a network with random weights.
TINY = {
    "sampling": Sampling(num_inference_steps=2),
    "ratios": RatiosConfig(
        concept_samples=10,
        retained_samples=10,
        num_samples=24,
        noisings=2,
        classifier_steps=4,
        elbo_samples=4,
        elbo_noise_levels=2,
    ),
    "fit": FitConfig(max_train_steps=2, train_batch_size=6, rank=1),
    "evaluation": EvaluationConfig(samples=4, retained_samples=4, integrated=4),
}
#: The same without corrections and evaluation, most of such a run, for tests of what stands before or after them.
UNMEASURED = TINY | {"fit": TINY["fit"].but(fixed_multipliers=True), "evaluation": EvaluationConfig(samples=0)}
SECTIONS = ("sampling", "ratios", "fit", "evaluation")


def config_of(some, **runtime):
    """A configuration of the sections among `some`, which they are taken out of; few sampler steps, unless said."""
    some.setdefault("sampling", Sampling(num_inference_steps=14))
    return Config(**{name: some.pop(name) for name in SECTIONS if name in some}, runtime=runtime)


def concept_task(concepts, problem, *, priors=None, retained=(), vocabulary=(), anchor=""):
    given = concepts
    if priors is not None:
        shares = [priors] * len(concepts) if isinstance(priors, float) else priors
        given = [Concept(one, prior=share) for one, share in zip(concepts, shares, strict=True)]
    asked = {"problem": problem}
    if isinstance(problem, tuple):  # a problem's name and its level, as people say them
        names = {"Likelihood": "likelihood", "ReverseKL": "reverse-kl", "ForwardKL": "forward-kl"}
        asked = {"problem": names[problem[0]], "levels": problem[1]}
    return ConceptTask(concepts=given, **asked, retained_prompts=retained, vocabulary=vocabulary, anchor=anchor)


def unlearn(pipeline, concepts, problem, *, cache_folder=None, method=None, **more):
    """`diffusion.unlearn`; `method` is a method or a name."""
    words = {name: more.pop(name) for name in ("priors", "retained", "vocabulary", "anchor") if name in more}
    config = config_of(more, cache_folder=cache_folder)
    return diffusion.unlearn(pipeline, concept_task(concepts, problem, **words), config, method=method, **more)


def forget(pipeline, images, *, cache_folder=None, method=None, **more):
    """`diffusion.forget`; `method` is a method or a name."""
    defaults = {"fit": FitConfig(max_train_steps=600, rank=16), "evaluation": EvaluationConfig(samples=1000)}
    names = ("prompts", "data", "data_prompts", "held_out", "held_out_prompts", "levels", "shares")
    words = {name: more.pop(name) for name in names if name in more}
    sections = defaults | {name: more.pop(name) for name in SECTIONS if name in more}
    config = config_of(sections, cache_folder=cache_folder)
    return diffusion.forget(pipeline, ImageTask(images, **words), config, method=method, **more)
