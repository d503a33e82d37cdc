import math

import numpy as np
import pytest
import torch

from diffusion.ratios.classifier import (
    Bottleneck,
    RatioClassifier,
    features,
    log_snr,
    noised_features,
    train_classifier,
)
from diffusion.ratios.classifier_ratios import classifier_ratios, posterior
from diffusion.ratios.elbo import elbos


def test_classifier_finds_the_log_ratio_of_noised_gaussians():
    """Features are x_t itself for q_1 = N(2, 1), rest = N(-1, 1): rho_t is known at every level."""
    generator = torch.Generator().manual_seed(0)
    n, prior = 20_000, 0.2
    labels = (torch.rand(n, generator=generator) < 0.6).long()  # shares unlike the priors: 40 % concept
    x0 = torch.where(labels == 0, 2.0, -1.0) + torch.randn(n, generator=generator)
    snr = 8 * torch.rand(n, generator=generator) - 4
    a = torch.sigmoid(snr)
    x = a.sqrt() * x0 + (1 - a).sqrt() * torch.randn(n, generator=generator)
    classifier = train_classifier(x[:, None], snr, labels, [prior], steps=300, seed=1)

    snr = torch.tensor([-2.0, 0.0, 2.0]).repeat_interleave(21)
    points = torch.linspace(-2, 2, 21).repeat(3)
    signal = torch.sigmoid(snr).sqrt()  # noised variances stay 1
    log_1, log_rest = -0.5 * (points - 2 * signal) ** 2, -0.5 * (points + signal) ** 2
    exact = log_1 - torch.logaddexp(log_1 + math.log(prior), log_rest + math.log(1 - prior))
    with torch.no_grad():
        found = classifier(points[:, None], snr)[:, 0]
    # 8,000 samples of the concept over a two-dimensional input: a few hundredths in the bulk, more in the tails.
    error = (found.exp() - exact.exp()) * prior
    assert error.abs().max() < 0.08
    assert error.square().mean().sqrt() < 0.02
    assert found.max() <= -math.log(prior) + 1e-6


def test_a_label_that_never_occurs_is_refused():
    with pytest.raises(ValueError, match="every class"):
        train_classifier(torch.zeros(4, 2), torch.zeros(4), torch.zeros(4, dtype=torch.long), [0.1], steps=1, seed=0)


def test_training_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train_classifier(torch.randn(8, 2), torch.zeros(8), torch.arange(8) % 2, [0.1], steps=2, seed=0)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    torch.randn(8, 2)
    assert torch.equal(after, torch.get_rng_state())
    assert not torch.equal(before, after)  # only the test's own randn moved it


def test_classifier_round_trips_through_its_state(tmp_path):
    classifier = train_classifier(torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(30),
                      torch.arange(30) % 3, [0.1, 0.2], steps=3, seed=0)  # fmt: skip
    again = RatioClassifier(4, classifier.log_shares.exp().tolist(), [0.1, 0.2])
    again.load_state_dict(classifier.state_dict())
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(classifier.eval()(x, torch.zeros(5)), again.eval()(x, torch.zeros(5)))
    log_p = classifier.log_posterior(x, torch.zeros(5))
    np.testing.assert_allclose(log_p.exp().sum(1).detach(), 1, atol=1e-6)


def test_features_come_from_the_bottleneck(reader):
    x, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 900])
    condition = reader.condition(["", "seven"])
    with Bottleneck(reader) as caught, torch.no_grad():
        output = reader.predict(x, t, condition)
    made = features(reader, x, t, condition)
    assert made.shape == (2, 96 * 16 + 4 * 64)
    assert torch.equal(made[:, :1536], caught.last.flatten(1))
    assert torch.equal(made[:, 1536:], output.flatten(1))
    assert not reader.bottleneck._forward_hooks  # nothing is left behind


def test_noised_features_are_reproducible(reader):
    z, t = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(5) * 100
    one, two = (
        noised_features(reader, z, t, reader.condition([""]), torch.Generator().manual_seed(2)) for _ in range(2)
    )
    assert torch.equal(one, two)


def test_log_snr_is_cut_where_rounding_would_decide(reader):
    value = log_snr(reader, torch.arange(1000))
    assert value.min() == -12
    assert (value[1:] <= value[:-1]).all()


def test_elbos_share_their_noise(reader):
    """The same condition twice gives the same ELBO to the last bit, another condition another."""
    z = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    value = elbos(reader, z, reader.condition(["seven", "seven", "one"]), levels=4, seed=0)
    assert torch.equal(value[:, 0], value[:, 1])
    assert not torch.equal(value[:, 0], value[:, 2])
    assert (value < 0).all()


def test_classifier_ratios_are_bounded_by_the_prior(reader, prompts):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = RatioClassifier(96 * 16 + 256, [0.5, 0.5], [0.1]).eval()
    z = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    rho = classifier_ratios(reader, classifier, z, seed=0)
    assert rho.shape == (4, 1)
    assert (posterior(rho, [0.1]) <= 1).all()
