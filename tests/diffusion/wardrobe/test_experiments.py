"""Training resumes as if it had never stopped, says what was asked of it, and the measures measure."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusion.wardrobe import BACKGROUNDS, OBJECTS, STYLES, Cell, cell_of, shipped_photographs
from diffusion.wardrobe.experiments.evaluate import kid, shares, without_prompt, worst_ratio
from diffusion.wardrobe.experiments.train import Stage, caption_table, choose_captions, renderings


def run(folder, steps, stop=None, fall=4):
    """A linear fit; ends without a word, as if killed, before step ``stop``."""
    network = torch.nn.Linear(3, 1)
    torch.nn.init.ones_(network.weight)
    torch.nn.init.zeros_(network.bias)

    def loss(step, generator, part=None):
        return network(torch.randn(8, 3, generator=generator)).square().mean()

    stage = Stage(folder, {"net": network}, loss, steps, 1e-2, seed=5, fall=fall)
    stage.run(stop)
    stage.save()
    return network, stage


def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(tmp_path):
    whole, one = run(tmp_path / "whole", 12)
    run(tmp_path / "parts", 12, stop=5)
    parts, two = run(tmp_path / "parts", 12)
    assert torch.equal(whole.weight, parts.weight)
    assert all(torch.equal(a, b) for a, b in zip(one.average, two.average, strict=True))
    assert one.losses == pytest.approx(two.losses, abs=1e-5)  # losses are kept to five digits


def test_a_run_that_is_lengthened_before_the_fall_is_the_longer_run(tmp_path):
    # Past the 200 steps of warming up, which would hide the fall.
    run(tmp_path / "parts", 214, stop=210)  # would fall from step 210 on
    longer, _ = run(tmp_path / "parts", 220)
    whole, _ = run(tmp_path / "whole", 220)
    assert torch.equal(whole.weight, longer.weight)
    run(tmp_path / "late", 214, stop=212)  # has fallen for a step
    late, _ = run(tmp_path / "late", 220)
    assert not torch.equal(whole.weight, late.weight)


def test_the_rate_warms_up_stays_and_falls_to_zero(tmp_path):
    _, stage = run(tmp_path, 1000, stop=1, fall=400)
    rates = np.array([stage.rate(step) for step in range(1001)]) / stage.settings.peak_rate
    np.testing.assert_allclose(rates[:200], np.arange(1, 201) / 200)
    np.testing.assert_allclose(rates[200:601], 1)
    np.testing.assert_allclose(np.diff(rates[600:]), -1 / 400)
    assert rates[-1] == 0


def test_fewer_steps_than_are_done_are_refused(tmp_path):
    run(tmp_path, 12, stop=5)
    with pytest.raises(ValueError, match=r"steps must be at least the 5 already done .*got 4"):
        run(tmp_path, 4)


def test_renderings_say_what_they_show():
    data = shipped_photographs("train")
    first = renderings(data, 60, torch.Generator().manual_seed(1))
    again = renderings(data, 60, torch.Generator().manual_seed(1))
    other = renderings(data, 60, torch.Generator().manual_seed(2))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert first[1].amax(0).tolist() == [len(OBJECTS) - 1, len(STYLES) - 1, len(BACKGROUNDS) - 1]


def test_captions_are_those_of_what_is_shown():
    texts, place = caption_table()
    n = 40_000
    generator = torch.Generator().manual_seed(3)
    said = torch.stack([torch.randint(size, (n,), generator=generator) for size in (8, 6, 3)], dim=1)
    chosen = choose_captions(said, place, generator)
    cells = [cell_of(texts[row]) for row in chosen]
    empty = np.array([cell is None for cell in cells])
    assert {texts[row] for row, gone in zip(chosen, empty, strict=True) if gone} == {""}
    # Binomial shares, within five standard errors.
    assert empty.mean() == pytest.approx(0.15, abs=5 * np.sqrt(0.15 * 0.85 / n))
    told = [(cell, Cell(*numbers)) for cell, numbers in zip(cells, said.tolist(), strict=True) if cell is not None]
    for axis, wanted in (("object", 0.06), ("style", 0.04)):
        free = np.array([getattr(cell, axis) is None for cell, _ in told])
        assert free.mean() == pytest.approx(wanted, abs=5 * np.sqrt(wanted / len(told)))
        assert all(getattr(cell, axis) in (None, getattr(truth, axis)) for cell, truth in told)
    assert all(cell.background == truth.background for cell, truth in told)


def test_shares_and_their_worst_ratio():
    classes = np.array([[0, 0, 0], [0, 1, 1], [1, 2, 2], [1, 3, 0]])
    found = shares(classes)
    assert found["object"]["t-shirt"] == 0.5
    assert sum(found["style"].values()) == 1
    data = {"background": dict.fromkeys(BACKGROUNDS, 1 / 3), "object": dict.fromkeys(OBJECTS, 1 / 8)}
    ratio = worst_ratio({axis: found[axis] for axis in data}, data)
    assert ratio["background"] == pytest.approx(1.5)
    assert ratio["object"] == float("inf")  # six objects are never found
    found = without_prompt("CNN", classes)
    assert (found.shares.object["t-shirt"], found.worst_ratio_to_data.object) == (0.5, float("inf"))


def test_kid_is_naught_within_one_law_and_positive_between_two():
    pytest.importorskip("torchmetrics")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 800, 16)).astype(np.float32)
    same, other = kid(x, y), kid(x, y + 0.5)
    assert abs(same.mean) < 5 * same.stderr
    assert other.mean > 5 * other.stderr
    assert same.n == 800
