"""A law of prompts for ``wardrobe`` with a context, and one of words and a context that it leaves out.

::

    python -m diffusion.wardrobe.experiments.contexts --concept "a dress" --output law.csv --unseen unseen.csv
    unlearn distill wardrobe --prompts law.csv ...             (the command is printed)
    unlearn recount OUT --prompts unseen.csv ...

The law has the concept's captions by two of the four templates, plain and on dots, each with the anchor in its own
words and with two fifths of all weight together; their anchors and the empty prompt have three tenths, captions that do
not ask for the concept the rest. What it leaves out, all with one weight: the concept's captions by the other two
templates on every background, and by all four on stripes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from diffusion.evaluation.sweep.canvas import SEEN, UNSEEN, CanvasTask, weighed
from diffusion.runtime.files import check_file, write_text
from diffusion.tasks.prompts import Prompt, Prompts
from diffusion.wardrobe.prompts import fallen_back
from diffusion.wardrobe.rendering import BACKGROUNDS

PLAIN, STRIPES, DOTS = (BACKGROUNDS.index(name) for name in ("plain", "stripes", "dots"))
EVERY = 3  # of captions that do not ask for the concept one of so many is in the law


def law(task: CanvasTask) -> Prompts:
    """Groups are ``asking``, ``anchors`` and ``retained``."""
    asking, others = ([each.prompt for each in task.prompts(some, SEEN, (PLAIN, DOTS))] for some in (True, False))
    anchors = {fallen_back(text, task.concept) for text in asking}
    return weighed(task, asking, [text for text in others if text not in anchors][::EVERY])


def unseen(task: CanvasTask) -> Prompts:
    """Groups are ``paraphrases``, on backgrounds that the law has, and ``contexts``, on stripes."""
    words = [each.prompt for each in task.prompts(True, UNSEEN, (PLAIN, DOTS))]
    places = [each.prompt for each in task.prompts(True, (*SEEN, *UNSEEN), (STRIPES,))]
    return Prompts(
        [
            *(Prompt(prompt=text, group="paraphrases") for text in words),
            *(Prompt(prompt=text, group="contexts") for text in places),
        ]
    )


def main(words: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--concept", default="a dress", help="an object or a style")
    parser.add_argument("--level", default="5%", help="level of all prompts of the law")
    parser.add_argument("--output", type=Path, required=True, help="the .csv file of the law")
    parser.add_argument("--unseen", type=Path, required=True, help="the .csv file of what it leaves out")
    given = parser.parse_args(words)
    task = CanvasTask.of(given.concept)
    if task.axis == "cell":
        raise ValueError(f"concept {given.concept!r} is an object in one style: no embedded detector is of both")
    check_file(given.output)
    check_file(given.unseen)
    write_text(given.output, law(task).to_csv())
    write_text(given.unseen, unseen(task).to_csv())
    print(
        f'unlearn distill wardrobe --concept "{given.concept}" --detector "wardrobe:{task.name}" '
        f"--prompts {given.output} --level {given.level} --guidance-scale 3"
    )


if __name__ == "__main__":
    main()
