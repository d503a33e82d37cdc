import pytest

from diffusion.digits import paraphrases
from diffusion.digits.prompts import prompts_for
from diffusion.tasks.concepts import ConceptLaw, TaskPrompts


def test_wordings_fall_back_and_nothing_else_does(prompts):
    assert prompts.replace(["A  handwritten SEVEN", "one", ""]) == ["", "one", ""]
    assert prompts.asks_for("a handwritten seven") == 0
    assert prompts.asks_for("a handwritten eight") is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ConceptLaw((), 0.1), "not empty"),
        (lambda: ConceptLaw(("  ",), 0.1), "not empty"),
        (lambda: ConceptLaw(("seven",), 1.0), "strictly between 0 and 1"),
        (lambda: TaskPrompts((), (("one",),)), "at least one concept"),
        (lambda: TaskPrompts((ConceptLaw(("seven",), 0.1),), ()), "at least one group"),
        (lambda: TaskPrompts((ConceptLaw(("seven",), 0.1),), (("Seven",),)), "neither contrast nor anchor"),
        (
            lambda: TaskPrompts((ConceptLaw(("seven",), 0.1),), (("one",),), anchor="seven"),
            "neither contrast nor anchor",
        ),
        (lambda: TaskPrompts((ConceptLaw(("a",), 0.5), ConceptLaw(("b",), 0.5)), (("one",),)), "below 1"),
        (lambda: prompts_for([""]), "empty string"),
        (lambda: prompts_for(["a purple cow"]), "none of the ten digits"),
        (lambda: prompts_for(["seven", "a handwritten 7"]), "already names"),
        (lambda: prompts_for(list(map(str, "0123456789")) and [w[0] for w in map(paraphrases, range(10))]), "all ten"),
    ],
)
def test_bad_prompts_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_labelled_samples_take_turns(prompts):
    asked, labels = prompts.labelled(6, 12)
    assert labels == [0] * 6 + [1] * 12
    assert sorted(set(asked[:6])) == sorted(prompts.concepts[0].prompts)
    assert set(asked[6:]) == set(prompts.retained)


def test_digits_prompts_cover_every_digit():
    chosen = prompts_for(["the digit 7 in ink"])
    assert chosen.concepts[0].name == "the digit 7 in ink"
    assert set(chosen.concepts[0].prompts) == set(paraphrases(7))
    assert set(chosen.contrast) == {paraphrases(k) for k in range(10) if k != 7}
