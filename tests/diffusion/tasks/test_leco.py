"""LECO's prompt files: what becomes of an entry, and what is refused by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

yaml = pytest.importorskip("yaml")
pytest.importorskip("torch")
from diffusion.cli.task_options import concept_task
from diffusion.tasks.leco import read_leco


def written(place, entries):
    path = place / "prompts.yaml"
    path.write_text(entries if isinstance(entries, str) else yaml.safe_dump(entries), encoding="utf-8")
    return path


def test_an_entry_is_a_concept_with_its_anchor(tmp_path):
    entries = [
        {"target": "van gogh", "neutral": "a painting", "action": "erase", "guidance_scale": 1.5, "batch_size": 2},
        {"target": ["a cat", "cats"], "positive": ["a cat", "cats"], "neutral": "a painting", "resolution": 512},
    ]
    task = concept_task({}, {"leco": written(tmp_path, entries), "level": ["1%"]}, "digits")
    assert [concept.prompts for concept in task.concepts] == [("van gogh",), ("a cat", "cats")]
    assert (task.anchor, task.levels) == ("a painting", ("1%",))


@pytest.mark.parametrize(
    ("entry", "anchor"),
    [({}, ""), ({"unconditional": "a picture"}, "a picture"), ({"neutral": "", "unconditional": "a picture"}, "")],
)
def test_neutral_left_out_is_the_unconditional_prompt(tmp_path, entry, anchor):
    assert read_leco(written(tmp_path, [{"target": "cat"} | entry]))["anchor"] == anchor


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([{"target": "cat", "action": "enhance"}], "entry 1: action must be erase, got 'enhance'"),
        ([{"target": "1girl", "positive": "cat ears"}], "positive must be the target '1girl', got 'cat ears'"),
        ([{"target": "cat", "neutral": "a"}, {"target": "dog"}], "must have one neutral prompt"),
        ([{"target": "cat"}, {"neutral": "a"}], "entry 2: target must be a prompt or a list of them, got None"),
        ([{"target": "cat", "strength": 2}], "strength is no field of LECO's"),
        ([{"target": "cat", "neutral": 3}], "neutral must be a prompt, got 3"),
        (["cat"], "entry 1 must hold names and values, got 'cat'"),
        ([{"target": " "}], "target must be a prompt"),
        ({"target": "cat"}, "must hold a list"),
        ([], "must hold a list"),
        ("a: [", "cannot be read"),
    ],
)
def test_what_is_refused_is_named(tmp_path, entries, reason):
    with pytest.raises(ValueError, match=r"prompts\.yaml") as refused:
        read_leco(written(tmp_path, entries))
    assert reason in str(refused.value)


def test_a_file_and_concepts_exclude_each_other(tmp_path):
    flags = {"leco": written(tmp_path, [{"target": "cat"}]), "concept": ["dog"], "level": ["1%"]}
    with pytest.raises(ValueError, match="leco says the concepts"):
        concept_task({}, flags, "digits")
    with pytest.raises(ValueError, match="cannot be read"):
        read_leco(tmp_path / "none.yaml")


text = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=12)


@given(st.lists(st.lists(text, min_size=1, max_size=3), min_size=1, max_size=4), text)
def test_every_target_is_a_prompt(tmp_path_factory, targets, neutral):
    place = tmp_path_factory.mktemp("leco")
    read = read_leco(written(place, [{"target": one, "neutral": neutral} for one in targets]))
    assert read == {"concepts": [{"prompts": tuple(one)} for one in targets], "anchor": neutral}
