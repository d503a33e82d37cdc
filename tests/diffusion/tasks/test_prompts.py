"""The law of prompts: files, weights, groups, anchors, and how samples are dealt to prompts."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion.tasks.prompts import Prompt, Prompts
from diffusion.tasks.task import Concept, ConceptTask


def test_files_of_three_kinds_say_the_same(tmp_path):
    (tmp_path / "a.csv").write_text('prompt,weight,group,anchor\n"a cat, asleep",2,cats,an animal\na dog,1,,\n')
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"prompt": "a cat, asleep", "weight": 2, "group": "cats", "anchor": "an animal"})
        + '\n\n{"prompt": "a dog"}\n'
    )
    read = [Prompts.read(tmp_path / name) for name in ("a.csv", "a.jsonl")]
    assert read[0] == read[1]
    assert read[0].texts == ("a cat, asleep", "a dog")
    assert read[0].sampled == ("an animal", "a dog")
    np.testing.assert_allclose(read[0].probabilities, [2 / 3, 1 / 3])
    (tmp_path / "a.txt").write_text("a dog\n\n  a cow \n")
    assert Prompts.read(tmp_path / "a.txt") == Prompts(["a dog", "a cow"])


def test_they_come_back_from_plain_data():
    some = Prompts([Prompt(prompt="one", weight=0.5, group="g"), "two"])
    assert Prompts(**some.plain()) == some


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "text,weight\na,1\n", "must name columns among prompt, weight, group, anchor"),
        ("a.csv", "prompt,weight\na,heavy\n", "line 2: weight"),
        ("a.csv", "prompt,weight\na,-1\n", "line 2: weight must be at least 0"),
        ("a.csv", "prompt,weight\na,nan\n", "line 2: weight"),
        ("a.csv", "prompt\na,b\n", "line 2: more entries than columns"),
        ("a.csv", "prompt,weight\na,0\n", "must not all be zero"),
        ("a.jsonl", "{\n", "line 1: no JSON"),
        ("a.jsonl", "[1]\n", "line 1: an object is needed, got list"),
        ("a.jsonl", '{"prompt": "a", "wieght": 1}\n', "line 1: .*wieght"),
        ("a.txt", "\n", "at least one prompt"),
        ("a.txt", "a  cat\na cat\n", "given twice, as number 1 and 2"),
        ("a.yaml", "", r"\.txt, \.csv or \.jsonl, got '\.yaml'"),
    ],
)
def test_what_does_not_fit_is_named_with_its_line(name, text, words, tmp_path):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        Prompts.read(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        Prompts.read(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="must be a list of prompts, got 'one'"):
        Prompts("one")


def test_templates_make_contexts():
    some = Prompts.templates(["a {x} in {place}", "{x}"], x=["cat", "dog"], place=["a field", "a house"])
    assert some.texts[:2] == ("a cat in a field", "a cat in a house")
    assert len(some) == 6  # the second template has no place
    assert some.prompts[-1].group == "{x}"
    with pytest.raises(ValueError, match="asks for 'y'"):
        Prompts.templates(["{y}"], x=["a"])


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=12).filter(lambda some: sum(some) > 0),
    st.integers(12, 200),
)
def test_every_prompt_that_is_asked_gets_a_sample_and_none_is_lost(weights, n):
    some = Prompts([Prompt(prompt=str(j), weight=weight) for j, weight in enumerate(weights)])
    counts = some.counts(n)
    assert counts.sum() == n
    assert ((counts > 0) == (some.probabilities > 0)).all()
    exact = n * some.probabilities
    if (exact >= 1).all():
        assert (np.abs(counts - exact) < 1).all()


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="num_samples: 1 for 2 prompts"):
        Prompts(["a", "b"]).counts(1)


def test_draws_follow_the_law_and_the_seed():
    some = Prompts([Prompt(prompt="a", weight=3), "b", Prompt(prompt="c", weight=0)])
    drawn = some.drawn(40_000, 1)
    assert (drawn == some.drawn(40_000, 1)).all()
    shares = np.bincount(drawn, minlength=3) / len(drawn)
    assert shares[2] == 0
    assert abs(shares[0] - 0.75) < 5 * (0.75 * 0.25 / 40_000) ** 0.5


SEVEN = {"prompts": ("seven", "a seven"), "detector": "digits:seven"}


def test_the_law_of_a_task_anchors_what_asks_for_the_concept():
    task = ConceptTask(concepts=[Concept(**SEVEN)], levels="1%", retained_prompts=["one"], anchor="a digit")
    law = task.law
    assert dict(zip(law.texts, law.sampled, strict=True)) == {
        "": "",
        "seven": "a digit",
        "a seven": "a digit",
        "one": "one",
    }
    np.testing.assert_allclose(law.probabilities, [0.5, 0.125, 0.125, 0.25])
    given_ = task.but(prompts=["a  Seven", "two"]).law
    assert given_.sampled == ("a digit", "two")
    own = task.but(prompts=[{"prompt": "seven", "anchor": "a nine"}]).law
    assert own.sampled == ("a nine",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"concepts": [Concept(**SEVEN), "eight"]}, "for all 2 concepts or for none, got 1"),
        ({"concepts": ["seven"], "prompts": ["one"]}, "needs a detector for every concept"),
        ({"problem": "reverse-kl", "levels": "1 nats"}, "must be likelihood where concepts have detectors"),
        ({"vocabulary": ["one", "two"]}, "detectors need none"),
    ],
)
def test_tasks_that_do_not_fit(change, words):
    with pytest.raises(ValueError, match=words):
        ConceptTask(**({"concepts": [Concept(**SEVEN)], "levels": "1%"} | change))


def test_concepts_with_detectors_that_do_not_fit():
    with pytest.raises(ValueError, match="by a prompt, its name"):
        Concept(images="folder", detector="nudenet")
    with pytest.raises(ValueError, match="has no prior"):
        Concept("seven", detector="nudenet", prior=0.1)


def test_a_task_with_a_law_comes_back_from_yaml(tmp_path):
    task = ConceptTask(model="digits", concepts=[Concept(**SEVEN)], levels="1%", prompts=["one", "two"])
    (tmp_path / "task.yaml").write_text(task.to_yaml())
    assert ConceptTask.from_yaml(tmp_path / "task.yaml") == task
    (tmp_path / "task.yaml").write_text(task.but(concepts=[Concept("seven", detector=len)]).to_yaml())
    with pytest.raises(ValueError, match=r"was given in memory .*len"):
        ConceptTask.from_yaml(tmp_path / "task.yaml")


def test_a_law_is_read_back_from_the_table_that_it_writes(tmp_path):
    given = [
        {"prompt": 'a "seven", by hand', "weight": 2, "group": "sevens", "anchor": "a digit"},
        "one",
        {"prompt": ""},
    ]
    law = Prompts(given)
    (tmp_path / "law.csv").write_text(law.to_csv(), encoding="utf-8")
    again = Prompts.read(tmp_path / "law.csv")
    assert again.texts == law.texts
    np.testing.assert_allclose(again.probabilities, law.probabilities, rtol=1e-5)
    assert [each.group for each in again.prompts] == [each.group for each in law.prompts]
    assert again.sampled == law.sampled == ("a digit", "one", "")
    with pytest.raises(ValueError, match="anchor of prompt 'seven' is the empty prompt"):
        Prompts([{"prompt": "seven", "anchor": ""}]).to_csv()
