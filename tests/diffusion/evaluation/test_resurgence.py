"""Does a concept come back by training that has nothing to do with it: what is taught, what is looked at, bounds."""

import numpy as np
import pytest
import torch

from diffusion.evaluation.audit_table import Audit, AuditReport, Cell, frequencies
from diffusion.evaluation.bounds import bound
from diffusion.evaluation.relearning import Curve, RelearnConfig
from diffusion.evaluation.resurgence import harmless, resurgence
from diffusion.pipelines import denoiser_of
from diffusion.pipelines.sampling import sample_latents
from diffusion.runtime.seeds import seeded_weights
from tests.diffusion import families
from tests.diffusion.families import build
from tests.diffusion.methods.conftest import make_survey
from tests.diffusion.workflows.test_concepts import quiet

CONFIG = RelearnConfig(images=4, steps=(0, 1, 2), samples=3, seeds=2, batch=2, rank=1, rate=0.05)


class Classifier:
    """Remembers what it was shown; sees the concept where samples are far from those of ``without``."""

    index = 0

    def __init__(self, without):
        self.without, self.seen = without, []

    def shows(self, latents):
        self.seen.append(latents)
        return (~torch.isclose(latents, self.without).flatten(1).all(1)).double().numpy()


def pipelines():
    """A base model, and the same with other weights in one layer, as if it were unlearned."""
    before, after = denoiser_of(build(families.sd)), denoiser_of(build(families.sd))
    with seeded_weights(3), torch.no_grad():
        after.network.conv_out.weight.add_(0.1 * torch.randn_like(after.network.conv_out.weight))
    return before, after


def test_what_is_taught_shows_no_concept():
    estimate = make_survey()
    sets = harmless(estimate, CONFIG, 0)
    assert [len(some) for some in sets] == [4, 4]
    assert not torch.equal(*sets)
    shown = estimate.posterior.max(1).values
    rows = [int((estimate.anchor == one).flatten(1).all(1).nonzero()) for some in sets for one in some]
    assert shown[rows].max() <= shown.median()
    with pytest.raises(ValueError, match="13 asked for, but half of the estimate's samples are 12"):
        harmless(estimate, RelearnConfig(images=13), 0)


def test_both_arms_look_at_the_unlearned_model_under_the_concepts_prompts():
    before, after = pipelines()
    estimate = make_survey()
    prompts = list(estimate.prompts.concepts[0].prompts)
    asked = [prompts[j % 2] for j in range(3)]
    unlearned = sample_latents(after.pipeline, asked, seed=1500, steps=2)
    assert not torch.allclose(unlearned, sample_latents(before.pipeline, asked, seed=1500, steps=2))
    classifier = Classifier(unlearned)
    arms = resurgence(before, after, estimate, classifier, CONFIG, 0, quiet)
    assert [arm.arm.split(":")[0] for arm in arms] == ["fine-tuned", "stacked"]
    for arm, start in zip(arms, (0, 6), strict=True):
        # Seed 0, before any step: the unlearned model itself, whichever of the two is trained.
        assert torch.allclose(classifier.seen[start], unlearned, atol=1e-5)
        assert not torch.allclose(classifier.seen[start + 2], unlearned, atol=1e-5)
        assert arm.frequency[:, 2] == pytest.approx([1.0, 1.0])  # this "concept" comes back at once
        assert len(arm.last) == 6
    assert not torch.allclose(classifier.seen[2], classifier.seen[8])
    for each in (before, after):  # adapters are off again
        assert not any("lora" in name for name, _ in each.network.named_parameters())
    assert torch.equal(sample_latents(after.pipeline, asked, seed=1500, steps=2), unlearned)


@pytest.mark.parametrize("hits", [0, 12])
def test_what_came_back_has_an_exact_bound(hits):
    last = (np.arange(40) < hits).astype(float)
    share = np.array([[0.0, hits / 40]])
    arm = Curve("fine-tuned: other images, then its paraphrases", (0, 80), share, np.zeros((1, 2)), last)
    stacked = Curve("stacked: other images, then its paraphrases", (0, 80), share, np.zeros((1, 2)), last)
    found = Audit((make_cell(),), {}, {}, {"seven": (arm, stacked)})
    most = bound(last, "upper", "clopper_pearson", 0.95).value
    assert most > hits / 40
    assert f"at most {100 * most:.2f} % fine-tuned, {100 * most:.2f} % stacked" in found.lines()[-1]
    report = AuditReport.model_validate_json(found.data().to_json())
    assert [each.role for each in report.resurged] == ["fine_tuned", "stacked"]
    assert all(each.bound.value == pytest.approx(most) for each in report.resurged)


def make_cell():
    seen = frequencies({"SVM": np.zeros(5)})
    return Cell(
        concept="seven", prompts="anchor", setting="own sampler", num_inference_steps=10, guidance_scale=1.0,
        sampler=None, samples=5, before=seen, after=seen,
    )  # fmt: skip
