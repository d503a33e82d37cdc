"""Initial weights from a seed, for libraries whose layers take no generator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Inside, torch's own state is a function of the seed; afterwards it is what it was, as if nothing had happened."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # the one place: layers and adapters are drawn from the global state alone
        yield
