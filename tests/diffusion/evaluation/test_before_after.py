"""Of a law with more prompts than images, those that ask for what is to be rarer are looked at, and others too."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion.evaluation.before_after import looked_at
from diffusion.ratios.detected import DetectedSamples
from diffusion.tasks.config import RatiosConfig, Sampling
from diffusion.tasks.detector_levels import constraints_of
from diffusion.tasks.prompts import Prompts


def estimate_of(showing, anchored=(), count=100, each=4):
    """A law of ``count`` prompts; of each of ``showing`` so many of ``each`` samples show a seven."""
    said = torch.zeros(count, each, 1, dtype=torch.float64)
    for j, hits in showing.items():
        said[j, :hits] = 1
    law = Prompts([{"prompt": f"p{j}"} | ({"anchor": "a nine"} if j in anchored else {}) for j in range(count)])
    return DetectedSamples(
        law, ("seven",), torch.arange(count).repeat_interleave(each), torch.zeros(count * each, 1), said.flatten(0, 1),
        None, (None,), "", RatiosConfig(), Sampling(), constraints_of(["seven"], ["1%"], [], law),
    )  # fmt: skip


@given(
    st.dictionaries(st.integers(0, 99), st.integers(1, 4)),
    st.sets(st.integers(0, 99), max_size=60),
    st.integers(8, 48),
)
def test_so_many_different_prompts_half_of_them_asking_where_so_many_ask(showing, anchored, count):
    chosen = looked_at(estimate_of(showing, anchored), count)
    assert len(set(chosen.tolist())) == count
    assert (np.diff(chosen) > 0).all()
    share = {j: 1.0 if j in anchored else hits / 4 for j, hits in showing.items()} | dict.fromkeys(anchored, 1.0)
    asking = {j for j, shown in share.items() if shown >= max(share.values()) / 2}
    assert len(asking & set(chosen.tolist())) == min(len(asking), max(count // 2, count - (100 - len(asking))))


def test_the_one_prompt_that_asks_is_looked_at_wherever_it_stands():
    assert 97 in looked_at(estimate_of({97: 4, 3: 1}), 16)
    assert 97 in looked_at(estimate_of({}, anchored={97}), 16)


@pytest.mark.parametrize("count", [100, 48, 5])
def test_a_short_law_is_gone_through_in_turn(count):
    chosen = looked_at(estimate_of({2: 4}, count=count), 100)
    np.testing.assert_array_equal(chosen, np.arange(100) % count)
