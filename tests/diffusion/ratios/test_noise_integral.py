"""One integral over noise levels, whoever asks: ELBOs under several conditions, and a network's negative ELBO."""

import pytest
import torch

from diffusion.api import open_denoiser
from diffusion.methods.likelihood import negative_elbo
from diffusion.pipelines import add_noise, denoiser_of
from diffusion.ratios.classifier import log_snr
from diffusion.ratios.elbo import elbos
from diffusion.ratios.noise_integral import Zone, integrate, row_weights, span, spread_log_snr
from tests.diffusion import families
from tests.diffusion.families import build

# Of the embedded digits, computed when ELBOs and negative ELBOs had an integral each (nats; levels=3, 4; seed 4).
PLAIN = [
    [-2338.175164952835, -2328.023970041965],
    [-1746.9076511371827, -1759.7866551816956],
    [-1371.5279700334713, -1373.3380795097985],
    [-2428.433634795704, -2426.7645693350387],
    [-2055.1614028248705, -2033.1606214747612],
]
MIRRORED = [
    [-1438.1846476150904, -1428.9959761709338],
    [-1749.1236481576125, -1744.565828902375],
    [-1653.3442077842706, -1648.7377349382814],
    [-1184.5630564024955, -1182.8698989784866],
    [-1329.1249382521312, -1328.7339489659134],
]
# Sums of 256 squares of what a float32 network says, whose longest sums have some 1,000 terms.
ROUNDING = 1000 * torch.finfo(torch.float32).eps


def test_figures_are_those_of_the_two_integrals_it_came_from():
    denoiser = open_denoiser("digits")
    samples = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(11))
    conditions = denoiser.condition(["a handwritten seven", ""])
    plain = elbos(denoiser, samples, conditions, levels=3, seed=4, batch=2)
    mirrored = elbos(denoiser, samples, conditions, levels=4, seed=4, antithetic=True)
    torch.testing.assert_close(plain, torch.tensor(PLAIN, dtype=torch.float64), rtol=ROUNDING, atol=0)
    torch.testing.assert_close(mirrored, torch.tensor(MIRRORED, dtype=torch.float64), rtol=ROUNDING, atol=0)
    sevens = denoiser.condition(["a handwritten seven"] * 5)
    value = negative_elbo(denoiser, samples, sevens, levels=3, seed=4)
    torch.testing.assert_close(-value, torch.tensor(PLAIN, dtype=torch.float64)[:, 0], rtol=ROUNDING, atol=0)


def test_the_integral_of_one_is_half_the_span(reader):
    _, low, high = span(reader)
    samples = torch.zeros(5, 4, 8, 8)
    for levels, antithetic in ((1, False), (6, True)):
        value = integrate(
            reader, samples, lambda x, t, eps, part: torch.ones(len(x)), levels=levels, seed=0, antithetic=antithetic
        )
        torch.testing.assert_close(value, torch.full((5,), 0.5 * (high - low), dtype=torch.float64))


def test_states_are_noised_samples_and_mirrored_noise_cancels_what_is_odd(reader):
    samples = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = []

    def odd(x, t, eps, part):
        assert torch.equal(x, add_noise(reader, samples[part], eps, t))
        seen.append(len(x))
        return eps.flatten(1).sum(1)

    known = []
    settings = {"levels": 4, "seed": 3, "batch": 2, "progress": known.append}
    value = integrate(reader, samples, odd, antithetic=True, **settings)
    assert torch.equal(value, torch.zeros(5, dtype=torch.float64))
    assert seen == known == [2, 2, 1] * 4
    assert (integrate(reader, samples, odd, **settings) != 0).all()


@pytest.mark.parametrize(("levels", "antithetic"), [(0, False), (-1, False), (3, True)])
def test_levels_that_make_no_sense_are_refused(reader, levels, antithetic):
    def never(x, t, eps, part):
        raise AssertionError("nothing is computed")

    with pytest.raises(ValueError, match="levels must be positive, and even with antithetic noise"):
        integrate(reader, torch.zeros(2, 4, 8, 8), never, levels=levels, seed=0, antithetic=antithetic)


@pytest.mark.parametrize("name", ["sd", "sd3", "ddpm"])
@pytest.mark.parametrize("zone", [None, Zone(-5.0, 1.0, 0.7), Zone(-30.0, -2.0, 0.2), Zone(-30.0, 30.0, 0.7)])
def test_rows_of_a_zone_come_more_often_and_count_less(name, zone):
    """The mean of any function of log SNR over rows, times their weights, is that of rows spread evenly."""
    denoiser = denoiser_of(build(getattr(families, name)))
    every, low, high = span(denoiser)
    generator, n = torch.Generator().manual_seed(3), 4000
    t = spread_log_snr(denoiser, n, generator, zone)
    weights = torch.ones(n) if zone is None else row_weights(denoiser, t, zone)
    assert len(weights) == n
    # Levels are those of the schedule: rows go to the nearest, half the widest step away at most, at either end of the
    # zone as well. A stratum of the n is passed over at most.
    within = every[(every >= low) & (every <= high)].sort().values
    step = float(within.diff().max()) / (high - low)
    off = 2.5 * (2 * step + 2 / n)
    level = log_snr(denoiser, t)
    for edge in (0.25, 0.5, 0.75, 1.1):
        below = (level <= low + edge * (high - low)).double()
        assert abs(float((below * weights).mean()) - min(edge, 1.0)) < off
    part = zone and zone.within(low, high)
    if part is not None:
        inside = ((level > part.low) & (level < part.high)).double().mean()
        assert abs(float(inside) - part.share) < off


def test_a_zone_that_is_all_or_nothing_is_none():
    assert Zone(-5.0, 1.0, 0.7).within(2.0, 5.0) is None
    assert Zone(-9.0, 9.0, 0.7).within(-7.0, 8.0) is None
    assert Zone(-9.0, 1.0, 0.7).within(-7.0, 8.0) == Zone(-7.0, 1.0, 0.7)
