"""Options that the pipeline commands share, and what becomes of them. Checks that need no model come first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from diffusion.pipelines import Denoiser
    from diffusion.ratios.ratio_estimate import Budget
    from diffusion.runtime.cache import Cache
    from diffusion.runtime.trackers import Tracked
    from diffusion.tasks.concepts import TaskPrompts
    from diffusion.tasks.levels import Asked
    from diffusion.training.trainer import Fit

from diffusion import need_extra

SEPARATOR = "|"
DRAWS = 2000  # of q, in every command: what one has drawn the next finds in the cache

Model = Annotated[str, typer.Argument(help="'digits', a folder or a hub name that diffusers can load")]
ConceptOption = Annotated[
    list[str] | None,
    typer.Option(
        "--concept",
        help="prompt that asks for what must go; once per concept; paraphrases of one: 'a tench | a photo of a tench'",
    ),
]
WordingOption = Annotated[
    list[str] | None, typer.Option("--paraphrase", help="another prompt that asks for the one concept given")
]
ExamplesOption = Annotated[
    list[Path] | None,
    typer.Option("--examples", help="folder of at least ten images that show a concept, where no prompt asks for it"),
]
ContrastOption = Annotated[
    list[str] | None,
    typer.Option(
        "--contrast",
        help="prompt that stands for the rest; paraphrases separated by |. Left out: the other digits for digits, else "
        "neighbours from --vocabulary and samples of the model itself",
    ),
]
VocabularyOption = Annotated[
    Path | None,
    typer.Option("--vocabulary", help="text file of prompts, one a line, to find the concept's neighbours in"),
]
PriorOption = Annotated[
    list[float] | None,
    typer.Option(
        "--prior",
        help="share of the concept in what the model makes unasked, one for all or one each; left out, estimated",
    ),
]
AnchorOption = Annotated[str, typer.Option(help="what prompts that ask for the concept fall back to")]
ProblemOption = Annotated[str, typer.Option("--problem", help="likelihood, reverse-kl or forward-kl")]
LEVEL_HELP = (
    "one for all concepts or one each. likelihood: a probability, 0.01 or '1%'; reverse-kl, forward-kl: nats, 4 or "
    "'4 nats' (forward-kl also a share, '1%'); all: a multiple of what the model has, '0.1x'"
)
LevelOption = Annotated[list[str], typer.Option("--level", help=LEVEL_HELP)]
DrawsOption = Annotated[int, typer.Option(help="samples of q that the problem is solved on")]
SeedOption = Annotated[int, typer.Option(help="seed of every sample and of training")]
CacheOption = Annotated[Path | None, typer.Option("--cache", help="where samples and ratios are kept between runs")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="replace a folder that is not empty")]
LabelledOption = Annotated[
    int,
    typer.Option(
        "--labelled", help="samples of each concept's prompts that the classifier learns from; 5/3 as many of the rest"
    ),
]
StepsOption = Annotated[int, typer.Option(help="training steps")]
BatchOption = Annotated[int, typer.Option(help="rows of a step, over all processes")]
RankOption = Annotated[int, typer.Option(help="rank of the LoRA")]
FullOption = Annotated[bool, typer.Option("--full", help="train all weights of the network instead of a LoRA")]
RateOption = Annotated[float | None, typer.Option(help="peak rate of AdamW; left out, 2e-3, with --full 1e-4")]
PrecisionOption = Annotated[str, typer.Option(help="no, or bf16: the network runs under bfloat16 autocast")]
AccumulateOption = Annotated[int, typer.Option(help="parts that a process takes its rows of a step in")]
CheckpointingOption = Annotated[
    bool, typer.Option("--gradient-checkpointing", help="compute activations again instead of keeping them")
]
CheckpointingStepsOption = Annotated[
    int, typer.Option("--checkpointing-steps", min=1, help="training steps from one checkpoint to the next")
]
EvaluationSamplesOption = Annotated[
    int,
    typer.Option(
        "--evaluation-samples",
        help="fresh samples that levels are measured on after the fit, under the anchor and under each concept's "
        "prompts; the fewer, the further below the level the solver has to aim",
    ),
]
TrackOption = Annotated[list[str] | None, typer.Option(help="tensorboard or wandb; off where left out")]
TrackFolderOption = Annotated[Path, typer.Option(help="where trackers put their files")]


def make_problem(name: str, given: list[str]) -> Asked:
    """The problem of that name at these levels. ``ValueError`` where they do not fit."""
    from diffusion.tasks.levels import kind_of, levels

    return levels(kind_of(name), list(given))


def make_task(
    model: str,
    concept: list[str] | None,
    paraphrase: list[str] | None,
    examples: list[Path] | None,
    contrast: list[str] | None,
    vocabulary: Path | None,
    prior: list[float] | None,
    anchor: str,
) -> Callable[[Denoiser], TaskPrompts]:
    """What the options say, checked as far as it goes without a model; called with the model, the task itself.

    Raises ``ValueError`` for options that do not fit together, empty prompts, and files that are not there.
    """
    need_extra()
    from diffusion.pipelines import DIGITS
    from diffusion.pipelines.images import read_folder

    given: list[Any] = [_paraphrases("concept", text) for text in concept or []]
    if paraphrase:
        if len(given) != 1:
            raise ValueError(
                f"one --concept goes with --paraphrase prompts, got {len(given)}: give each concept's paraphrases as "
                "'--concept \"one paraphrase | another\"'"
            )
        given = [[*given[0], *paraphrase]]
    for folder in examples or []:
        given.append(read_folder(folder, "examples")[0])
    if not given:
        raise ValueError("concept must be given: --concept with a prompt, or --examples with a folder of images")
    words: list[str] = []
    if vocabulary is not None:
        if not vocabulary.is_file():
            raise ValueError(f"vocabulary {str(vocabulary)!r} is no file")
        words = [line.strip() for line in vocabulary.read_text(encoding="utf-8").splitlines() if line.strip()]
    groups = [_paraphrases("contrast", text) for text in contrast or []]
    shares = None if not prior else prior[0] if len(prior) == 1 else prior
    if model == DIGITS and not groups and not words and not examples:
        from diffusion.digits.prompts import prompts_for

        digits = prompts_for([each[0] for each in given], anchor)
        if prior:
            digits = digits.with_priors(prior * len(given) if len(prior) == 1 else prior)
        return lambda _denoiser: digits

    def task(denoiser: Denoiser) -> TaskPrompts:
        from diffusion.api import prompts_of
        from diffusion.workflows.validation import check

        prompts = prompts_of(denoiser, given, groups, shares, anchor, words)
        check(denoiser, prompts)
        if words:
            typer.echo("contrast prompts proposed: " + "; ".join(prompts.retained))
        if not groups:
            typer.echo("samples of the model itself stand for the rest")
        return prompts

    return task


def _paraphrases(option: str, text: str) -> list[str]:
    some = [part.strip() for part in text.split(SEPARATOR)]
    if not all(some):
        raise ValueError(f"{option} must be a prompt, got an empty string" + (f" in {text!r}" if text.strip() else ""))
    return some


def make_budget(samples: int, seed: int, labelled: int = 600) -> Budget:
    from diffusion.ratios.ratio_estimate import Budget

    return Budget(concept_samples=labelled, contrast_samples=labelled * 5 // 3, anchor_samples=samples, seed=seed)


def make_fit(
    steps: int,
    batch: int,
    rank: int,
    full: bool,
    rate: float | None,
    seed: int,
    precision: str,
    accumulate: int,
    gradient_checkpointing: bool,
) -> Fit:
    from diffusion.training.trainer import Fit

    return Fit(
        steps=steps,
        batch=batch,
        rank=None if full else rank,
        rate=rate,
        seed=seed,
        precision=precision,
        accumulate=accumulate,
        gradient_checkpointing=gradient_checkpointing,
    )


def make_tracked(track: list[str] | None, folder: Path, method: str, fit: Fit) -> Tracked | None:
    """Who hears of a fit; None where nobody was named."""
    from dataclasses import asdict

    from diffusion.runtime.trackers import Tracked

    return Tracked(track, folder, {"method": method, **asdict(fit)}) if track else None


def open_model(model: str) -> Any:
    need_extra()
    from diffusion.pipelines import denoiser_of, load_pipeline
    from diffusion.runtime.distributed import world

    return denoiser_of(load_pipeline(model).to(world().device))


def store_of(denoiser: Denoiser, folder: Path | None) -> Cache:
    """What is kept of this model between runs, in ``folder`` or the user's own."""
    from diffusion.pipelines.fingerprint import fingerprint
    from diffusion.runtime.cache import Cache, default_folder

    return Cache(folder or default_folder(), fingerprint(denoiser.pipeline))


def image_classifier_of(model: str, prompts: TaskPrompts) -> Any:
    """Independent classifiers, for ``digits`` and concepts that are digits; None elsewhere."""
    from diffusion.pipelines import DIGITS

    if model != DIGITS:
        return None
    from diffusion.digits.prompts import DigitsClassifiers

    image_classifier = DigitsClassifiers()
    return (
        image_classifier
        if all(image_classifier.asked(concept.name) is not None for concept in prompts.concepts)
        else None
    )
