"""Samples of q as the rest, and priors that nobody gave: against Gaussians whose ratios are known."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from diffusion.ratios.classifier import RatioClassifier, train_classifier
from diffusion.ratios.positive_unlabelled import ABSENT, contrast_loss, label_shares, validate
from diffusion.ratios.priors import mixture_priors, unlabelled_prior
from diffusion.tasks.concepts import ConceptLaw, Examples, TaskPrompts

PRIOR = 0.2


def mixture(count, rng, apart=6.0):
    """Samples (count, 1) of 0.2 N(apart, 1) + 0.8 N(0, 1), and whether each is the concept."""
    is_concept = rng.random(count) < PRIOR
    return rng.normal(size=count) + apart * is_concept, is_concept


def log_ratio(x, apart=6.0):
    q = np.logaddexp(math.log(PRIOR) + norm.logpdf(x, apart), math.log(1 - PRIOR) + norm.logpdf(x))
    return norm.logpdf(x, apart) - q


def test_without_samples_of_q_it_is_the_softmax():
    score, labels = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    some = torch.tensor([0.4, 0.3, 0.3]).log()
    expected = torch.nn.functional.cross_entropy(score, labels)
    torch.testing.assert_close(contrast_loss(score, labels, some, some, None), expected)


def test_the_loss_is_the_log_score_of_the_labels():
    """At the true posterior it equals -mean log Pr(label | x) computed from densities."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=50) * 3 + 2
    rho = log_ratio(x, 3.0)
    rest = norm.logpdf(x) - (norm.logpdf(x, 3.0) - rho)
    shares, priors = np.array([0.3, 0.2]), np.array([PRIOR, 1 - PRIOR])
    labels = torch.from_numpy(rng.integers(0, 3, size=50))
    density = np.column_stack([0.3 * np.exp(rho), 0.2 * np.exp(rest), np.full(50, 0.5)])
    expected = -np.log(density[np.arange(50), labels] / density.sum(1)).mean()
    log_eta = np.column_stack([rho, rest]) + np.log(priors)
    score = torch.from_numpy(log_eta - np.log(priors) + np.log(shares) + rng.normal(size=(50, 1)))
    got = contrast_loss(
        score, labels, torch.from_numpy(np.log(shares)), torch.from_numpy(np.log(priors)), math.log(0.5)
    )
    assert float(got) == pytest.approx(expected, rel=1e-9)


def test_shares_of_labels():
    shares, of_q = label_shares(torch.tensor([0, 0, 1, 2, 3]), 3)
    torch.testing.assert_close(shares, torch.tensor([0.4, 0.2, 0.2]))
    assert of_q == pytest.approx(0.2)
    shares, of_q = label_shares(torch.tensor([0, 2, 2]), 2)
    assert float(shares[1]) == pytest.approx(ABSENT)
    assert of_q == pytest.approx(2 / 3)
    for some in ([0, 0], [1, 1], [2, 2]):
        with pytest.raises(ValueError, match="every class"):
            label_shares(torch.tensor(some), 2)


def test_a_classifier_learns_the_posterior_from_positive_and_unlabelled_samples():
    rng = np.random.default_rng(1)
    positive, (unlabelled, _) = rng.normal(size=600) + 6, mixture(1200, rng)
    feature = torch.from_numpy(np.concatenate([positive, unlabelled])).float()[:, None]
    labels = torch.tensor([0] * 600 + [2] * 1200)
    snr = torch.zeros(1800)
    classifier = train_classifier(feature, snr, labels, [PRIOR], steps=300, seed=0)
    x = torch.tensor([[-1.0], [0.0], [6.0], [7.0]])
    with torch.no_grad():
        rho = classifier(x, torch.zeros(4))[:, 0]
    assert isinstance(classifier, RatioClassifier)
    assert float(rho.max()) <= -math.log(PRIOR) + 1e-5
    assert (PRIOR * rho[2:].exp() > 0.9).all()
    assert (PRIOR * rho[:2].exp() < 0.1).all()


def test_validation_against_samples_of_q_gives_the_auc_against_the_rest():
    """The correction turns the AUC against q into that against the rest, here 1 up to overlap."""
    rng = np.random.default_rng(2)
    positive, (free, _) = rng.normal(size=500) + 6, mixture(4000, rng)
    values = torch.from_numpy(log_ratio(np.concatenate([positive, free])))[:, None]
    seen = validate(values, torch.tensor([0] * 500 + [2] * 4000), 0, PRIOR)
    assert seen.auc == pytest.approx(1.0, abs=0.025)  # four standard errors
    assert seen.ece < 0.02


def test_priors_of_a_mixture_are_found_within_their_errors():
    rng = np.random.default_rng(3)
    provisional, misses = np.array([0.4]), []
    for _ in range(60):
        x, _ = mixture(400, rng, apart=2.5)
        to_provisional = norm.logpdf(x, 2.5) - np.logaddexp(
            math.log(0.4) + norm.logpdf(x, 2.5), math.log(0.6) + norm.logpdf(x)
        )
        found, errors = mixture_priors(to_provisional[:, None], provisional)
        misses.append((found[0] - PRIOR) / errors[0])
    # Standard normal where the errors are right: mean 0 ± 0.13, deviation 1 ± 0.09 over 60 repetitions.
    assert abs(np.mean(misses)) < 0.4
    assert 0.75 < np.std(misses) < 1.25
    with pytest.raises(ValueError, match="give the priors"):
        mixture_priors(np.full((100, 1), -30.0), provisional)


def test_the_prior_of_a_concept_that_stands_apart_is_found_without_a_labelled_rest():
    rng = np.random.default_rng(4)
    found, error = unlabelled_prior(log_ratio(rng.normal(size=2000) + 6), 0.3, 0.7)
    assert found == pytest.approx(PRIOR, abs=0.01)
    assert error < 0.01
    blurred, _ = unlabelled_prior(log_ratio(rng.normal(size=2000) + 2, 2.0), 0.3, 0.7)
    assert blurred > PRIOR  # part of it looks like the rest: too large, never too small
    with pytest.raises(ValueError, match="give the priors"):
        unlabelled_prior(np.full(50, -3.0), 0.5, 0.5)


def test_labels_of_samples_of_q():
    both = TaskPrompts((ConceptLaw(("seven",), 0.1),), (("one",), ("two",)), unlabelled=True)
    prompts, labels = both.labelled(4, 6)
    assert labels == [0] * 4 + [1] * 3 + [2] * 3
    assert prompts[-3:] == [""] * 3
    alone = TaskPrompts((ConceptLaw((), 0.1, Examples(torch.zeros(12, 3))),), (), unlabelled=True)
    assert alone.labelled(20, 5) == ([""] * 17, [0] * 12 + [2] * 5)


def test_examples_are_told_apart_by_their_values():
    one, two = Examples(torch.zeros(12, 3)), Examples(torch.ones(12, 3))
    assert one == Examples(torch.zeros(12, 3))
    assert one != two
    prompts = [TaskPrompts((ConceptLaw((), 0.1, some),), (), unlabelled=True) for some in (one, two)]
    assert str(prompts[0].described()) != str(prompts[1].described())
    plain = TaskPrompts((ConceptLaw(("seven",), 0.1),), (("one",),)).described()
    assert "unlabelled" not in plain
    assert "examples" not in plain["concepts"][0]
    for bad, words in ((torch.zeros(3, 3), "at least 10"), (torch.full((10, 3), float("nan")), "finite")):
        with pytest.raises(ValueError, match=words):
            Examples(bad)
    with pytest.raises(ValueError, match="by prompts or by examples"):
        ConceptLaw(("seven",), 0.1, one)
    with pytest.raises(ValueError, match="for all concepts or for none"):
        TaskPrompts((ConceptLaw(("a",), 0.1), ConceptLaw(("b",), None)), (("c",),))
    unknown = TaskPrompts((ConceptLaw(("a",), None),), (("c",),))
    assert not unknown.has_priors
    with pytest.raises(ValueError, match="estimate the ratios first"):
        _ = unknown.priors
    assert unknown.with_priors([0.3]).priors == (0.3,)
