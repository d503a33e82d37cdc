"""Prompts beside words that no law names: which words, what they fall back to, and which rows of a fit they have."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffusion.methods import versions as module
from diffusion.methods.guided_tilt import PromptBatches
from diffusion.methods.versions import MOST_WORDS, OTHERS, SHARE, VERSIONS, in_versions, others, versions
from diffusion.pipelines import denoiser_of, load_pipeline
from diffusion.tasks.prompts import Prompt, Prompts
from tests.diffusion import families

LAW = Prompts(
    [Prompt(prompt="a boot on dots", anchor="a garment on dots"), Prompt(prompt="a sandal"), Prompt(prompt="")]
)
MOVED = np.array([True, False, False])


@pytest.fixture(scope="module")
def denoiser():
    return denoiser_of(load_pipeline("wardrobe"))


def test_versions_have_the_same_words_beside_a_prompt_and_its_anchor_and_none_that_makes_the_concept(denoiser):
    found = versions(denoiser, LAW, MOVED)
    assert 100 < len(found) == len({each.prompt for each in found}) <= VERSIONS
    for each in found:
        assert each.number == 0
        assert "a boot on dots" in each.prompt
        assert each.prompt.replace("a boot on dots", "a garment on dots") == each.sampled
        added = each.prompt.replace("a boot on dots", "").split()
        assert 1 <= len(added) <= MOST_WORDS
        assert "boot" not in added
    still = versions(denoiser, LAW, ~MOVED)
    assert {each.number for each in still} == {1, 2}
    assert all(each.prompt == each.sampled for each in still)
    words = {word for each in still for word in each.prompt.split()}
    assert "boot" not in words
    assert {"sandal", "dots", "stripes"} <= words
    assert not {each.prompt for each in still} & set(LAW.texts)
    assert found == versions(denoiser, LAW, MOVED) != versions(denoiser, LAW, MOVED, seed=1)


def test_other_words_in_the_concepts_place_are_kept(denoiser):
    law = Prompts([Prompt(prompt="A boot  on dots", anchor="a garment on dots"), Prompt(prompt="a sandal on dots")])
    found = others(denoiser, law)
    assert 100 < len(found) == len({each.prompt for each in found}) <= OTHERS
    assert all(each.prompt == each.sampled for each in found)
    assert {each.number for each in found} == {0}
    words = {word for each in found for word in each.prompt.split()}
    assert "boot" not in words  # what makes the concept stands nowhere
    assert {"trouser", "bag", "stripes"} <= words
    lengths = {len(each.prompt.split()) for each in found}
    assert lengths == {4, *range(5, 5 + MOST_WORDS)}  # "a w on dots", and with further words
    assert all("on dots" in each.prompt for each in found)
    assert not {"a garment on dots", "a sandal on dots"} & {each.prompt for each in found}
    assert found == others(denoiser, law) != others(denoiser, law, seed=1)
    # An anchor that leaves words out leaves nothing to be replaced where it has all that are left.
    assert others(denoiser, Prompts([Prompt(prompt="a boot", anchor="a boot on dots")])) == []
    assert others(denoiser, Prompts([Prompt(prompt="a boot")])) == []  # nothing moves
    assert others(denoiser_of(families.build(families.ddpm)), LAW) == []


def test_they_are_no_longer_than_the_tokenizer_takes(denoiser):
    tokenizer = denoiser.pipeline.tokenizer
    longest = " ".join(["a"] * (tokenizer.model_max_length - 3))  # one more token fits
    found = versions(denoiser, Prompts([Prompt(prompt="a boot", anchor=longest)]), np.array([True]))
    assert found
    assert {len(tokenizer(each.sampled).input_ids) for each in found} == {tokenizer.model_max_length}


def test_there_are_none_without_words_or_weight(denoiser):
    assert versions(denoiser_of(families.build(families.ddpm)), LAW, MOVED) == []
    assert versions(denoiser, LAW, np.zeros(3, bool)) == []
    weightless = Prompts([Prompt(prompt="a boot", weight=0), Prompt(prompt="a bag")])
    assert versions(denoiser, weightless, np.array([True, False])) == []


def batches(denoiser):
    condition = denoiser.condition(LAW.texts)
    shares = torch.full((3,), 1 / 3, dtype=torch.float64)
    return PromptBatches(
        denoiser, torch.zeros(3, *denoiser.sample_shape), torch.arange(3), condition, denoiser.condition(LAW.sampled),
        denoiser.condition([""]), torch.tensor([3.0, 3.0, 1.0]), True, shares, shares,
    )  # fmt: skip


def test_half_of_the_rows_of_prompts_that_stay_are_under_versions_of_their_own(denoiser):
    data = in_versions(batches(denoiser), LAW, "")
    laws = torch.arange(3).repeat(4000)
    rows = data.asking(laws, torch.Generator().manual_seed(0))
    for law in (0, 2):  # one that moves, and the empty prompt, which is the branch without prompt
        assert torch.equal(rows[laws == law], laws[laws == law])
    own = rows[laws == 1] == 1
    assert abs(float(own.double().mean()) - (1 - SHARE)) < 4 * 0.5 / 4000**0.5
    # What student and base are given is of the same version, of the same prompt.
    every = versions(denoiser, LAW, np.array([False, True, False]), seed=1)
    numbers = torch.tensor([0, 1, 2, *(each.number for each in every)])
    assert torch.equal(numbers[rows], laws)
    assert len(rows[laws == 1].unique()) > 100
    for row in (3, len(numbers) - 1):
        for told in (data.asked, data.anchors):
            for name, value in denoiser.condition([every[row - 3].prompt]).items():
                torch.testing.assert_close(told[name][row], value[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(rows, data.asking(laws, torch.Generator().manual_seed(0)))


def test_what_is_held_in_memory_is_bounded(denoiser, monkeypatch):
    size = sum(value[:1].nbytes for value in denoiser.condition([""]).values())
    monkeypatch.setattr(module, "MOST_BYTES", 10 * size)
    told = in_versions(batches(denoiser), LAW, "").asked["encoder_hidden_states"]
    assert 3 < len(told) <= 3 + 10
    monkeypatch.setattr(module, "MOST_BYTES", 0)
    data = batches(denoiser)
    assert in_versions(data, LAW, "") is data


def test_a_pipeline_without_words_is_left_as_it_is(denoiser):
    data = replace(batches(denoiser), denoiser=denoiser_of(families.build(families.ddpm)))
    assert in_versions(data, LAW, "") is data
