"""The law of 200 prompts: what it holds, and that the command that is printed means it."""

import itertools
import shlex

import pytest

from diffusion.digits.data import PARAPHRASES
from diffusion.digits.experiments.many_prompts import CONTEXTS, law, main
from diffusion.tasks.prompts import Prompts
from diffusion.tasks.task import Concept, ConceptTask


def test_two_hundred_prompts_with_anchors_in_context(tmp_path, capsys):
    main(["--output", str(tmp_path / "prompts.csv"), "--level", "2%"])
    read = Prompts.read(tmp_path / "prompts.csv")
    assert read.texts == law("seven").texts
    assert len(read) == 200
    sevens = [each for each in read.prompts if each.group == "sevens"]
    assert len(sevens) == 18 > len(PARAPHRASES)
    assert all(each.anchor in CONTEXTS for each in sevens)
    assert all(each.anchor is None for each in read.prompts if each.group != "sevens")
    assert read.probabilities @ [each.group == "sevens" for each in read.prompts] == pytest.approx(0.2, rel=1e-4)
    assert "someone wrote a number by hand" in [each.anchor for each in sevens if "by hand" in each.prompt]
    words = shlex.split(capsys.readouterr().out)
    given = {name: [b for a, b in itertools.pairwise(words) if a == name] for name in ("--concept", "--keep")}
    task = ConceptTask(
        concepts=[Concept(given["--concept"][0], detector="digits:seven")],
        levels=words[words.index("--level") + 1],
        keep=given["--keep"],
        prompts=words[words.index("--prompts") + 1],
    )
    assert len(task.constraints) == 10
    assert {each.group for each in task.constraints[1:]} == {each.group for each in read.prompts[20:]} - {"sevens"}
    with pytest.raises(ValueError, match="must be one of zero"):
        law("eleven")
