"""Options that say what is to be done, and the tasks that they amount to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

if TYPE_CHECKING:
    from diffusion.tasks.image_task import ImageTask
    from diffusion.tasks.task import ConceptTask

PANEL = "Task"
NO_LEVEL = ["1x"]  # of commands that ask for no level: the present one


def shown_default(text: str) -> str:
    """A default at the end of an option's help, in brackets that rich does not take for its markup."""
    return " " + escape(f"[{text}]")


def _option(name: str, help: str, shown: str = "") -> Any:
    words = help + shown_default(shown) if shown else help
    return typer.Option(name, help=words, rich_help_panel=PANEL, show_default=False)


CONCEPT_OPTIONS: dict[str, Any] = {
    "concept": Annotated[
        list[str] | None, _option("--concept", help="prompt that must go, 'tench | photo of a tench'; repeat")
    ],
    "examples": Annotated[list[Path] | None, _option("--examples", help="folder of ten or more images of a concept")],
    "leco": Annotated[Path | None, _option("--leco", help="prompt file of LECO's: what must go, and the anchor")],
    "problem": Annotated[
        str | None,
        _option("--problem", help="likelihood, reverse-kl or forward-kl", shown="likelihood"),
    ],
    "level": Annotated[
        list[str] | None,
        _option(
            "--level",
            help="target level: '1%', '4 nats', '0.1x', '5% in GROUP'",
        ),
    ],
    "retained_prompt": Annotated[
        list[str] | None,
        _option("--retained-prompt", help="prompt to be retained, 'one | its paraphrase'; repeat"),
    ],
    "vocabulary": Annotated[
        Path | None, _option("--vocabulary", help="text file of prompts, one a line, to find neighbours in")
    ],
    "detector": Annotated[
        list[str] | None,
        _option(
            "--detector",
            help="what decides that an image shows it: 'clip:a cat|a dog', 'nudenet', 'module:name'; repeat",
        ),
    ],
    "keep": Annotated[
        list[str] | None,
        _option("--keep", help="retained at a level: 'DETECTOR=95% in GROUP'; repeat"),
    ],
    "prompts": Annotated[
        Path | None,
        _option("--prompts", help="law of prompts: .txt, .csv (prompt,weight,group,anchor)"),
    ],
    "prior": Annotated[
        list[float] | None,
        _option("--prior", help="share of unconditional samples", shown="estimated"),
    ],
    "anchor": Annotated[str | None, _option("--anchor", help="what a concept's prompts fall back to", shown="empty")],
}

IMAGE_OPTIONS: dict[str, Any] = {
    "image": Annotated[list[Path] | None, _option("--image", help="image that must go, or a folder of them; repeat")],
    "prompt": Annotated[
        str | None, _option("--prompt", help="prompt of the images; a folder's metadata.jsonl or .csv may say it")
    ],
    "level": Annotated[
        list[str] | None,
        _option("--level", help="nats of negative ELBO above the present, 'unseen' or 'unseen 90%'", shown="unseen"),
    ],
    "data": Annotated[
        list[Path] | None, _option("--data", help="folder of training data, the images among it", shown="samples")
    ],
    "held_out": Annotated[
        list[Path] | None, _option("--held-out", help="folder of like images that were never trained on")
    ],
    "share": Annotated[
        list[float] | None,
        _option("--share", help="copies of an image over the size of its data; one or one each", shown="counted"),
    ],
}


def concept_task(said: dict[str, Any], flags: dict[str, Any], model: str | None) -> ConceptTask:
    """What files and options say, checked as far as it goes without a model.

    Raises ``ValueError`` for what does not fit together, empty prompts, and files that are not there.
    """
    from diffusion.pipelines.images import read_folder
    from diffusion.tasks.leco import read_leco
    from diffusion.tasks.task import Concept, ConceptTask

    concepts: list[Any] = [Concept(text) for text in flags.get("concept") or []]
    concepts += [Concept(images=read_folder(folder, "examples")[0]) for folder in flags.get("examples") or []]
    data = dict(said)
    if leco := flags.get("leco"):
        if concepts:
            raise ValueError("leco says the concepts: --concept and --examples must be left out")
        data |= read_leco(leco)
    if concepts:
        data["concepts"] = concepts
    if not data.get("concepts"):
        raise ValueError("concept must be given: --concept with a prompt, --examples with a folder, or --leco")
    if prior := flags.get("prior"):
        shares = prior * len(data["concepts"]) if len(prior) == 1 else prior
        if len(shares) != len(data["concepts"]):
            raise ValueError(f"prior must be one for all or one for each of {len(data['concepts'])}, got {len(prior)}")
        given = [each if isinstance(each, Concept) else Concept(each) for each in data["concepts"]]
        data["concepts"] = [each.but(prior=share) for each, share in zip(given, shares, strict=True)]
    if detectors := flags.get("detector"):
        if len(detectors) != len(data["concepts"]):
            raise ValueError(f"detector must be one for each of {len(data['concepts'])} concepts, got {len(detectors)}")
        given = [each if isinstance(each, Concept) else Concept(each) for each in data["concepts"]]
        data["concepts"] = [each.but(detector=one) for each, one in zip(given, detectors, strict=True)]
    names = {"level": "levels", "retained_prompt": "retained_prompts"}
    for name in ("problem", "level", "retained_prompt", "vocabulary", "anchor", "prompts", "keep"):
        if flags.get(name) not in (None, []):
            data[names.get(name, name)] = flags[name]
    if not data.get("levels"):
        raise ValueError("level must be given: --level, such as 1%, '4 nats' or 0.1x")
    if model is not None:
        data["model"] = model
    return ConceptTask(**data)


def image_task(said: dict[str, Any], flags: dict[str, Any], model: str | None) -> tuple[ImageTask, list[Path]]:
    """The task, and the paths of its images in their order. ``ValueError`` as for :func:`concept_task`."""
    from diffusion.pipelines.images import gather
    from diffusion.tasks.image_task import ImageTask, levels_of

    data = {name: value for name, value in said.items() if name in ("model", "levels", "shares")}
    if flags.get("level"):
        data["levels"] = levels_of(flags["level"])
    if not flags.get("image"):
        raise ValueError("image must be given: --image with a file or a folder")
    forgotten, prompts = gather(flags["image"], "image", flags.get("prompt"))
    data |= {"images": forgotten, "prompts": prompts}
    for option, name in (("data", "data"), ("held_out", "held_out")):
        some, texts = gather(flags.get(option) or [], option.replace("_", "-"), None)
        if some:
            data |= {name: some, f"{name}_prompts": texts if any(texts) else None}
    if share := flags.get("share"):
        data["shares"] = share[0] if len(share) == 1 else share
    if model is not None:
        data["model"] = model
    return ImageTask(**data), [Path(path) for path in forgotten]
