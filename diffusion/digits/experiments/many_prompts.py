"""A law of 200 prompts for ``digits``: contexts without a digit, paraphrases of every digit, anchors in context.

::

    python -m diffusion.digits.experiments.many_prompts --concept seven --output prompts.csv
    unlearn distill digits --prompts prompts.csv ...          (the command is printed)

Eighteen wordings of each of the ten digits, of which the pipeline was trained on eight, nineteen contexts that name no
digit, and the empty prompt. The concept's prompts have a fifth of all weight and, each, the law of their own context
("someone wrote a number by hand"), contexts and the empty prompt two fifths, the nine neighbours two fifths.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from diffusion.digits.data import ANCHORS, PARAPHRASES, WORDS
from diffusion.runtime.files import check_file, write_text
from diffusion.tasks.prompts import Prompt, Prompts

# Words that the pipeline knows, put together as it has never seen them.
FURTHER = (
    "the number {word} in ink",
    "a handwritten number {word}",
    "the digit {numeral} by hand",
    "a scan of the digit {word}",
    "a photo of a handwritten {word}",
    "the number {numeral}",
    "{numeral}",
    "someone wrote {word}",
    "{word} in ink",
    "a handwritten digit {numeral}",
)
CONTEXTS = (
    *ANCHORS,
    "a number in ink",
    "a handwritten number",
    "a digit by hand",
    "a scan of a digit",
    "a scan of a number",
    "a photo of a handwritten digit",
    "a photo of a digit",
    "a number",
    "a digit",
    "someone wrote a digit",
    "ink",
    "by hand",
    "a photo",
    "a scan",
    "someone wrote by hand",
)
# What each wording falls back to: itself with the digit replaced by a broader word.
ANCHOR_OF = dict(
    zip(
        (*PARAPHRASES, *FURTHER),
        (
            *("a handwritten digit", "a handwritten digit", "a digit in ink", "a digit in ink"),
            *("a photo of a number", "a scan of a number", "someone wrote a number by hand", "a digit"),
            *("a number in ink", "a handwritten number", "a digit by hand", "a scan of a digit"),
            *("a photo of a handwritten digit", "a number", "a digit", "someone wrote a digit"),
            *("a digit in ink", "a handwritten digit"),
        ),
        strict=True,
    )
)
ASKING, REST = 0.2, 0.4  # of all weight: the concept's prompts, the contexts; the neighbours have what is left


def law(concept: str) -> Prompts:
    """The law; groups are ``contexts`` and the digits by their plural. ``ValueError`` for a concept that is no
    digit."""
    if concept not in WORDS:
        raise ValueError(f"concept must be one of {', '.join(WORDS)}, got {concept!r}")
    wordings = tuple(ANCHOR_OF)
    each = (1 - ASKING - REST) / (9 * len(wordings))
    found = [Prompt(prompt=text, weight=REST / (len(CONTEXTS) + 1), group="contexts") for text in ("", *CONTEXTS)]
    for digit, word in enumerate(WORDS):
        own = word == concept
        for wording in wordings:
            found.append(
                Prompt(
                    prompt=wording.format(word=word, numeral=digit),
                    weight=ASKING / len(wordings) if own else each,
                    group=plural(word),
                    anchor=ANCHOR_OF[wording] if own else None,
                )
            )
    return Prompts(prompts=tuple(found))


def plural(word: str) -> str:
    """The group of a digit's prompts."""
    return word + ("es" if word == "six" else "s")


def command(concept: str, path: Path, level: str, kept: str) -> str:
    """``unlearn distill`` with every other digit kept under its own prompts."""
    keep = " ".join(f'--keep "digits:{word}={kept} in {plural(word)}"' for word in WORDS if word != concept)
    asking = " | ".join(wording.format(word=concept, numeral=WORDS.index(concept)) for wording in ANCHOR_OF)
    return (
        f'unlearn distill digits --concept "{asking}" --detector digits:{concept} --level {level} {keep} '
        f"--prompts {path}"
    )


def main(words: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--concept", default="seven", help="which digit goes")
    parser.add_argument("--level", default="1%", help="level of all prompts")
    parser.add_argument("--kept", default="90%", help="level of every other digit under its own prompts")
    parser.add_argument("--output", type=Path, required=True, help="the .csv file")
    given = parser.parse_args(words)
    check_file(given.output)
    write_text(given.output, law(given.concept).to_csv())
    print(command(given.concept, given.output, given.level, given.kept))


if __name__ == "__main__":
    main()
