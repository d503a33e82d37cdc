import numpy as np
import pytest
import torch

import duality as du
from diffusion.guidance.guided import Guided, constant
from diffusion.pipelines import repeat
from diffusion.pipelines.sampling import sample_latents
from diffusion.ratios.classifier import RatioClassifier


@pytest.fixture(scope="module")
def classifier():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RatioClassifier(96 * 16 + 256, [0.5, 0.5], [0.1]).eval()


def hooks(reader):
    network = reader.network
    return len(network._forward_hooks) + len(network._forward_pre_hooks) + len(reader.bottleneck._forward_hooks)


def test_no_strength_is_no_guidance(reader, prompts, classifier):
    plain = sample_latents(reader.pipeline, ["", "one"], seed=1, steps=4)
    with Guided(reader, prompts, classifier, constant(0.0)) as guided:
        assert torch.equal(sample_latents(reader.pipeline, ["", "one"], seed=1, steps=4), plain)
    assert [share for _, _, share in guided.trace.steps] == [0.0] * 4
    assert hooks(reader) == 0


def test_the_correction_is_the_formula(reader, prompts, classifier):
    x, t = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(500)
    base = reader.condition(["one", "", "three"])
    with torch.no_grad():
        level = t.expand(3)
        q = reader.predict(x, level, base)
        free = reader.predict(x, level, repeat(reader.condition([""]), 3))
        concept = reader.predict(x, level, repeat(reader.condition([prompts.concepts[0].name]), 3))
        with Guided(reader, prompts, classifier, constant(0.7)):
            guided = reader.predict(x, t, base)
    np.testing.assert_allclose(guided, q + 0.7 * (free - concept), atol=2e-5)


def test_strength_is_the_solution_s(reader, prompts, classifier):
    solution = du.solve(du.Likelihood(0.01), du.LogRatios(np.log([[9.9], [1e-4], [1e-2]] * 300), priors=[0.1]))
    seen = []

    def strength(rho):
        seen.append(solution.guidance(rho))
        return seen[-1]

    with Guided(reader, prompts, classifier, strength):
        sample_latents(reader.pipeline, [""] * 2, seed=0, steps=3)
    assert len(seen) == 3
    assert all(k.shape == (2, 1) and (k >= 0).all() for k in seen)


def test_wordings_of_the_concept_draw_the_anchor(reader, prompts, classifier):
    anchor = sample_latents(reader.pipeline, ["", ""], seed=4, steps=3)
    with Guided(reader, prompts, classifier, constant(0.0)):
        asked = sample_latents(
            reader.pipeline, [prompts.concepts[0].prompts[1], "A Handwritten Seven"], seed=4, steps=3
        )
    np.testing.assert_allclose(asked, anchor, atol=1e-5)


def test_together_with_classifier_free_guidance(reader, prompts, classifier):
    """c(u' + g (c' - u')) with the same correction on both halves adds that correction once, whatever g."""
    x, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(400)
    pair = reader.condition(["", "one"])
    doubled = torch.cat([x, x])
    with torch.no_grad():
        u, c = reader.predict(doubled, t.expand(2), pair)
        with Guided(reader, prompts, classifier, constant(0.5)):
            u2, c2 = reader.predict(doubled, t, pair)
    plain, guided = u + 5 * (c - u), u2 + 5 * (c2 - u2)
    np.testing.assert_allclose(guided - plain, u2 - u, atol=1e-4)


def test_stock_samplers_and_guidance_scale_work_inside(reader, prompts, classifier):
    from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler

    original = reader.pipeline.scheduler
    try:
        for kind in (DPMSolverMultistepScheduler, EulerDiscreteScheduler):
            reader.pipeline.scheduler = kind.from_config(original.config)
            with Guided(reader, prompts, classifier, constant(0.3)) as guided:
                out = sample_latents(reader.pipeline, ["one", "seven"], seed=2, steps=4, guidance_scale=3.0)
            assert torch.isfinite(out).all()
            assert len(guided.trace.steps) >= 4
    finally:
        reader.pipeline.scheduler = original


def test_hooks_go_when_an_error_passes(reader, prompts, classifier):
    with pytest.raises(RuntimeError), Guided(reader, prompts, classifier, constant(0.3)):
        raise RuntimeError
    assert hooks(reader) == 0
