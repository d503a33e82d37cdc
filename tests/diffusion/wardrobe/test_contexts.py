"""A law with a context and what it leaves out: who is where, and that no prompt is in both."""

import numpy as np
import pytest

from diffusion.evaluation.sweep.canvas import CanvasTask
from diffusion.tasks.prompts import Prompts
from diffusion.wardrobe.experiments.contexts import law, main, unseen


@pytest.mark.parametrize("concept", ["a dress", "neon"])
def test_the_law_and_what_it_leaves_out(concept):
    task = CanvasTask.of(concept)
    inside, outside = law(task), unseen(task)
    assert not {*inside.texts} & {*outside.texts}
    share = {
        name: sum(inside.probabilities[[each.group == name for each in inside.prompts]])
        for name in ("asking", "anchors", "retained")
    }
    np.testing.assert_allclose(list(share.values()), [0.4, 0.3, 0.3])
    assert not any("stripes" in text for text in inside.texts)
    assert any("dots" in text for text in inside.texts)
    assert all(("stripes" in each.prompt) is (each.group == "contexts") for each in outside.prompts)
    # Every anchor is a prompt of the law, so that its own law is tilted as well.
    assert {each.anchor for each in inside.prompts if each.anchor is not None} <= set(inside.texts)
    assert all(each.anchor is None for each in outside.prompts)


def test_the_command_writes_both_and_says_how_to_go_on(tmp_path, capsys):
    files = (tmp_path / "law.csv", tmp_path / "unseen.csv")
    main(["--concept", "an ankle boot", "--output", str(files[0]), "--unseen", str(files[1])])
    task = CanvasTask.of("an ankle boot")
    for path, made in zip(files, (law(task), unseen(task)), strict=True):
        read = Prompts.read(path)
        assert read.texts == made.texts
        np.testing.assert_allclose(read.probabilities, made.probabilities, rtol=1e-5)
    assert '--detector "wardrobe:boot"' in capsys.readouterr().out
    with pytest.raises(ValueError, match="no embedded detector is of both"):
        main(["--concept", "a sketch of a boot", "--output", str(files[0]), "--unseen", str(files[1])])
