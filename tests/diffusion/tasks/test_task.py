"""Tasks as people give them: strings, lists, images, problems; written down and read again."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

import duality as du
from diffusion.tasks.image_task import ImageTask
from diffusion.tasks.task import Concept, ConceptTask


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ("seven", ("seven",)),
        ("seven | a handwritten seven", ("seven", "a handwritten seven")),
        (["seven", "a handwritten seven"], ("seven", "a handwritten seven")),
        ({"prompts": ["seven"]}, ("seven",)),
        (Concept("seven", prior=0.1), ("seven",)),
    ],
)
def test_a_concept_is_a_prompt_or_several_of_them(given, prompts):
    (concept,) = ConceptTask(concepts=[given], levels="1%").concepts
    assert concept.prompts == prompts


def test_a_concept_is_images_as_well(tmp_path):
    image = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
    for given in (torch.zeros(10, 3, 4, 4), [image] * 10, [tmp_path / "1.png"], tmp_path):
        (concept,) = ConceptTask(concepts=[given], levels="1%").concepts
        assert not concept.prompts
        assert concept.images is not None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"concepts": []}, "concepts must hold at least one"),
        ({"concepts": "seven"}, "concepts must be a list of prompts, got 'seven'"),
        ({"concepts": [" "]}, "concept must be a prompt, got an empty string"),
        ({"concepts": [Concept("seven")], "levels": "lots"}, "got 'lots'"),
        ({"levels": ["1%", "2%", "3%"]}, "levels must be one for all or one for each of 1"),
        ({"problem": "magic"}, "problem must be one of 'likelihood', 'reverse-kl' or 'forward-kl', got 'magic'"),
        ({"problem": du.Likelihood(0.1)}, "levels must be left out where problem has them"),
        ({"problem": du.Keep(0.1), "levels": None}, "got Keep"),
        ({"retained_prompts": "one"}, "retained_prompts must be a list"),
        ({"vocabulary": "/nowhere"}, "vocabulary '/nowhere' is no file"),
        ({"concepts": [{"prompts": ["seven"], "prior": 1.5}]}, "prior must be below 1, got 1.5"),
        ({"concepts": [{"prompts": ["seven"], "images": "folder"}]}, "by prompts or by images, got both"),
        ({"level": "1%"}, "level is no field that is known here"),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_the_field(data, words):
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        ConceptTask(**({"concepts": ["seven"], "levels": "1%"} | data))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("problem", [du.ReverseKL([0.1, 1 / 3]), du.ForwardKL(4.0), du.Likelihood([0.01, 1e-9])])
def test_a_problem_of_duality_gives_its_levels(problem):
    task = ConceptTask(concepts=["one", "two"], problem=problem)
    ratios = du.LogRatios(np.log([[1.5, 0.5], [0.5, 1.5]]), priors=[0.5, 0.5])
    found = task.asked.problem(ratios)
    assert type(found) is type(problem)
    np.testing.assert_array_equal(found.levels, np.broadcast_to(problem.levels, 2))


def test_yaml_there_and_back_is_the_same(tmp_path):
    (tmp_path / "words.txt").write_text("one\n\n two \n", encoding="utf-8")
    task = ConceptTask(
        model="digits",
        concepts=["seven | a handwritten seven", Concept("eight", prior=0.1)],
        problem="forward-kl",
        levels=["4 nats", 0.5],
        retained_prompts=["one | the digit 1"],
        vocabulary=tmp_path / "words.txt",
        anchor="a digit",
    )
    (tmp_path / "task.yaml").write_text(task.to_yaml(), encoding="utf-8")
    again = ConceptTask.from_yaml(tmp_path / "task.yaml")
    assert again == task
    assert again.words == ("one", "two")


def test_images_in_memory_are_not_written_down_and_are_asked_for_again(tmp_path):
    task = ConceptTask(concepts=[torch.zeros(10, 3, 4, 4)], levels="1%")
    (tmp_path / "task.yaml").write_text(task.to_yaml(), encoding="utf-8")
    with pytest.raises(ValueError, match=r"were given in memory .* give a folder or paths instead"):
        ConceptTask.from_yaml(tmp_path / "task.yaml")


@pytest.mark.parametrize(
    ("given", "levels"),
    [("unseen", "unseen"), (["unseen 90%"], "unseen 90%"), ("4 nats", 4.0), (["4 nats", 2], (4.0, 2.0)), (3, 3.0)],
)
def test_levels_of_images(given, levels):
    assert ImageTask([1], levels=given).levels == levels


def test_images_to_forget_are_never_written_down(tmp_path):
    task = ImageTask([tmp_path / "ann.png"], data=["other.png"], prompts="a portrait of Ann", levels=3.0)
    text = task.to_yaml()
    assert "ann" not in text.lower()
    assert "other" not in text
    assert "portrait" not in text
    (tmp_path / "task.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="not written down: give them again"):
        ImageTask.from_yaml(tmp_path / "task.yaml")
