"""One integral over noise levels, whoever asks: ELBOs under several conditions, and a network's negative ELBO."""

import pytest
import torch

from diffusion.api import open_denoiser
from diffusion.methods.likelihood import negative_elbo
from diffusion.pipelines import add_noise
from diffusion.ratios.elbo import elbos
from diffusion.ratios.noise_integral import integrate, span

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
