"""The card of ``wardrobe`` is what the script makes of ``quality.json``, and changes with it."""

import json

import pytest

from diffusion.wardrobe import PIPELINE_FOLDER
from diffusion.wardrobe.experiments.card import QUALITY, card, goals, main, too_seldom
from diffusion.wardrobe.quality import WardrobeQuality


@pytest.fixture(scope="module")
def data():
    return json.loads(QUALITY.read_text(encoding="utf-8"))


def quality(data, **change):
    return WardrobeQuality.model_validate(data | change)


def test_the_card_is_made_from_what_was_measured(data, tmp_path, monkeypatch):
    written = (PIPELINE_FOLDER / "README.md").read_text(encoding="utf-8")
    assert card(quality(data)) == written, "run: python -m diffusion.wardrobe.experiments.card"
    monkeypatch.setattr("sys.argv", ["card", "--output", str(tmp_path / "README.md")])
    main()
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == written


def test_other_figures_give_another_card(data):
    reached = {}
    for mean in (0.9, 0.99):
        rows = json.loads(json.dumps(data["agreement"]))
        for row in rows:
            row["object"]["mean"] = mean
        found = quality(data, agreement=rows)
        reached[mean] = [goal.reached for goal in goals(found)]
        said = "yes" if mean > 0.98 else "**no**"
        shown = f"{100 * mean:.1f} %"
        assert f"| object at guidance scale 3, both classifiers: 98 % | {shown} | {said} |" in card(found)
    assert reached == {0.9: [False, True, False, False, False], 0.99: [True, True, True, False, False]}


def test_what_is_made_too_seldom_is_named_by_all_classifiers_only(data):
    assert too_seldom(quality(data)) == ["sketch", "mosaic"]
    even = json.loads(json.dumps(data["without_prompt"]))
    even[0]["shares"]["style"]["mosaic"] = 1 / 6  # one of the two sees enough
    assert too_seldom(quality(data, without_prompt=even)) == ["sketch"]
    assert "sketch is made too seldom" in card(quality(data, without_prompt=even))
    even[0]["shares"]["style"]["sketch"] = 1 / 6
    assert "too seldom" not in card(quality(data, without_prompt=even))


def test_a_file_that_does_not_say_enough_is_refused(data):
    with pytest.raises(ValueError, match="training is not said"):
        card(quality(data, training=None))
    with pytest.raises(ValueError, match="guidance scale 1"):
        card(quality(data, agreement=[row for row in data["agreement"] if row["guidance_scale"] != 1.0]))
