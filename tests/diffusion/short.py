"""Cost along chains of a few steps: a run through all stages asks a network with random weights mostly for that."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from diffusion.evaluation import measure, measure_detected
from diffusion.methods.chain import chain_of
from diffusion.methods.correction import Correction
from diffusion.methods.level_estimates import Meter
from diffusion.workflows import dry_run

LEVELS = 2  # of an integral over noise; a chain has twice as many steps


@contextmanager
def short_chains() -> Iterator[None]:
    """What is measured after a fit, and what a plan says of it. Samplers that are chains themselves stay as they
    are."""
    chain = partial(chain_of, steps=2 * LEVELS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "Meter", partial(Meter, noise_levels=LEVELS))
        patch.setattr(measure_detected, "chain_of", chain)
        patch.setattr(dry_run, "chain_of", chain)
        patch.setattr(dry_run, "Correction", partial(Correction, noise_levels=LEVELS))
        yield
