"""The command ``unlearn``. The one place that sees duality, toy and diffusion together."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

try:
    import typer
except ImportError:  # pragma: no cover - exercised by a subprocess without typer
    sys.exit("unlearn: the command line needs typer: install unlearning-duality[cli]")

if TYPE_CHECKING:
    import duality as du

    from .concepts import Prompts
    from .survey import Budget

from . import need_extra
from .cli_toy import explore, frontier, solve, verify

app = typer.Typer(
    help="Unlearning in diffusion models, solved exactly: problems, certificates, LoRAs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(verify)
app.command()(solve)
app.command()(frontier)
app.command()(explore)

Model = Annotated[str, typer.Argument(help="'digits', a folder or a hub name that diffusers can load")]
ConceptOption = Annotated[
    list[str], typer.Option("--concept", help="prompt that asks for what must go; once per concept")
]
WordingOption = Annotated[
    list[str] | None, typer.Option("--wording", help="another prompt that asks for the same concept")
]
ContrastOption = Annotated[
    list[str] | None, typer.Option("--contrast", help="prompt that stands for the rest; needed unless MODEL is digits")
]
PriorOption = Annotated[
    float | None,
    typer.Option(help="share of the concept in what the model makes unasked; needed unless MODEL is digits"),
]
AnchorOption = Annotated[str, typer.Option(help="what prompts that ask for the concept fall back to")]
ProblemOption = Annotated[str, typer.Option("--problem", help="likelihood, reverse-kl or forward-kl")]
LevelOption = Annotated[
    list[float], typer.Option("--level", help="likelihood: a probability; reverse-kl and forward-kl: nats")
]
DrawsOption = Annotated[int, typer.Option(help="draws of q that the problem is solved on")]
SeedOption = Annotated[int, typer.Option(help="seed of every draw and of training")]
CacheOption = Annotated[Path | None, typer.Option("--cache", help="where draws and ratios are kept between runs")]


def make_problem(name: str, levels: list[float]) -> du.Problem:
    import numpy as np

    import duality as du

    values = np.array(levels, dtype=float)
    if name == "likelihood":
        if not np.all((values > 0) & (values < 1)):
            raise ValueError(f"level must lie strictly between 0 and 1 for a likelihood (a probability), got {levels}")
        return du.Likelihood(values)
    kinds: dict[str, Any] = {"reverse-kl": du.ReverseKL, "forward-kl": du.ForwardKL}
    if name not in kinds:
        raise ValueError(f"problem must be likelihood, reverse-kl or forward-kl, got {name!r}")
    return kinds[name](values)


def make_prompts(
    model: str,
    concept: list[str],
    wording: list[str] | None,
    contrast: list[str] | None,
    prior: float | None,
    anchor: str,
) -> Prompts:
    from .concepts import Concept, Prompts
    from .models import DIGITS

    for prompt in concept:
        if not prompt.strip():
            raise ValueError("concept must be a prompt, got an empty string")
    if model == DIGITS and not contrast:
        from .digits.witness import prompts_for

        return prompts_for(concept, anchor)
    if len(concept) != 1:
        raise ValueError(
            f"one --concept with its --wording prompts is taken for this model, got {len(concept)} concepts"
        )
    if not contrast:
        raise ValueError(f"model {model!r} needs --contrast prompts that stand for the rest of what it makes")
    if prior is None:
        raise ValueError(f"model {model!r} needs --prior, the share of the concept in what it makes unasked")
    wordings = (concept[0], *(wording or []))
    return Prompts((Concept(wordings, prior),), tuple((prompt,) for prompt in contrast), anchor)


def make_budget(draws: int, seed: int, steps: int | None = None) -> Budget:
    from .draws import STEPS
    from .survey import Budget

    return Budget(anchor_draws=draws, seed=seed, sampler_steps=steps or STEPS)


def open_model(model: str) -> Any:
    need_extra()
    from .models import denoiser_of, load_pipeline

    return denoiser_of(load_pipeline(model))


def _witness(model: str, prompts: Prompts) -> Any:
    from .models import DIGITS

    if model != DIGITS:
        return None
    from .digits.witness import DigitsWitness

    return DigitsWitness()


@app.command()
def distill(
    model: Model,
    concept: ConceptOption,
    output: Annotated[Path, typer.Option(help="folder for the LoRA, the certificate, the card and the pictures")],
    level: LevelOption,
    problem: ProblemOption = "likelihood",
    wording: WordingOption = None,
    contrast: ContrastOption = None,
    prior: PriorOption = None,
    anchor: AnchorOption = "",
    draws: DrawsOption = 1500,
    steps: Annotated[int, typer.Option(help="training steps of the LoRA")] = 340,
    rank: Annotated[int, typer.Option(help="rank of the LoRA")] = 8,
    method: Annotated[str, typer.Option(help="how it is fitted: tilted, guidance or primal-dual")] = "tilted",
    judged: Annotated[int, typer.Option(help="draws of the anchor that are counted after the fit")] = 2000,
    seed: SeedOption = 0,
    cache: CacheOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a folder that is not empty")] = False,
) -> None:
    """Solve for the target, fit it into a LoRA, and certify: ratios, multipliers, training, evidence."""
    target = make_problem(problem, level)
    prompts = make_prompts(model, concept, wording, contrast, prior, anchor)
    need_extra()
    from .api import method_of
    from .cache import default_folder
    from .output import OutputFolder
    from .run import Evaluation, save, unlearn
    from .training import Fit

    chosen = method_of(method)
    place = OutputFolder(output, overwrite)
    denoiser = open_model(model)
    result = unlearn(
        denoiser,
        prompts,
        target,
        method=chosen,
        budget=make_budget(draws, seed),
        fit=Fit(steps=steps, rank=rank, seed=seed),
        evaluation=Evaluation(anchor=judged),
        witness=_witness(model, prompts),
        cache_folder=cache or default_folder(),
    )
    with place as folder:
        save(result, denoiser, folder)
    typer.echo(str(result.solution))
    typer.echo((output / "README.md").read_text(encoding="utf-8").split("## Mean posterior", 1)[1].strip())
    typer.echo(f"certified: {result.certificate['certified']}")
    for objection in result.certificate["objections"]:
        typer.echo(f"  objection: {objection}")
    typer.echo(f"written to {output}")


@app.command()
def sample(
    model: Model,
    concept: ConceptOption,
    output: Annotated[Path, typer.Option(help="folder for the pictures")],
    level: LevelOption,
    problem: ProblemOption = "likelihood",
    prompt: Annotated[str, typer.Option(help="what to sample; a concept's wording falls back to the anchor")] = "",
    count: Annotated[int, typer.Option(help="how many draws")] = 64,
    lora: Annotated[Path | None, typer.Option(help="sample with this LoRA instead of guidance")] = None,
    wording: WordingOption = None,
    contrast: ContrastOption = None,
    prior: PriorOption = None,
    anchor: AnchorOption = "",
    draws: DrawsOption = 1500,
    seed: SeedOption = 0,
    cache: CacheOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a folder that is not empty")] = False,
) -> None:
    """Sample the optimal target by guidance, without training (or through a LoRA that was distilled before)."""
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    target = make_problem(problem, level)
    prompts = make_prompts(model, concept, wording, contrast, prior, anchor)
    import duality as du

    from .cache import Cache, default_folder, fingerprint
    from .draws import decode, draw
    from .output import OutputFolder, save_pictures
    from .run import guided_draws
    from .survey import survey

    if lora is not None and not (lora / "pytorch_lora_weights.safetensors").is_file():
        raise ValueError(f"lora folder {str(lora)!r} holds no pytorch_lora_weights.safetensors")
    place = OutputFolder(output, overwrite)
    denoiser = open_model(model)
    wanted = [prompt] * count
    if lora is not None:
        denoiser.pipeline.load_lora_weights(lora)
        latents = draw(denoiser.pipeline, wanted, seed=seed)
    else:
        known = survey(
            denoiser,
            prompts,
            make_budget(draws, seed),
            Cache(cache or default_folder(), fingerprint(denoiser.pipeline)),
        )
        solution = du.solve(target, known.ratios)
        typer.echo(str(solution))
        latents = guided_draws(denoiser, known, solution.guidance, wanted, seed=seed + 77)
    pictures = decode(denoiser.pipeline, latents)
    with place as folder:
        from PIL import Image

        save_pictures(folder / "sheet.png", [(prompt or "(empty prompt)", pictures)], 12, panel_columns=1)
        for j, picture in enumerate(pictures):
            shown = ((picture.transpose(1, 2, 0) + 1) * 127.5).clip(0, 255).round().astype("uint8")
            Image.fromarray(shown).save(folder / f"{j:05d}.png")
    typer.echo(f"{count} pictures written to {output}")


@app.command()
def ratios(
    model: Model,
    concept: ConceptOption,
    wording: WordingOption = None,
    contrast: ContrastOption = None,
    prior: PriorOption = None,
    anchor: AnchorOption = "",
    draws: DrawsOption = 2000,
    elbo_draws: Annotated[int, typer.Option(help="draws at which the ELBO estimators are computed as well")] = 200,
    elbo_levels: Annotated[int, typer.Option(help="noise levels of the ELBO estimators")] = 40,
    output: Annotated[Path | None, typer.Option(help="write the table as JSON as well")] = None,
    seed: SeedOption = 0,
    cache: CacheOption = None,
) -> None:
    """Estimate and keep log ratios, examine every estimator, and say what levels mean for this model."""
    prompts = make_prompts(model, concept, wording, contrast, prior, anchor)
    from dataclasses import replace

    from .cache import Cache, default_folder, fingerprint
    from .certificate import to_json
    from .estimators import compare, level_table
    from .survey import survey

    denoiser = open_model(model)
    budget = replace(make_budget(draws, seed), elbo_draws=min(elbo_draws, draws), elbo_levels=elbo_levels)
    store = Cache(cache or default_folder(), fingerprint(denoiser.pipeline))
    known = survey(denoiser, prompts, budget, store)
    compared = compare(denoiser, known, _witness(model, prompts), store)
    for line in compared.lines():
        typer.echo(line)
    table = level_table(known)
    for line in table.lines():
        typer.echo(line)
    if output is not None:
        output.write_text(to_json({"estimators": compared.data(), "levels": table.data()}), encoding="utf-8")


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="folder for the page")] = Path("out/demo"),
    concept: Annotated[str, typer.Option(help="which digit goes")] = "a handwritten seven",
    level: Annotated[float, typer.Option(help="at most this share of draws may show it")] = 0.01,
    judged: Annotated[int, typer.Option(help="draws that are judged, guided and after the LoRA")] = 2000,
    seed: SeedOption = 0,
    cache: CacheOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a folder that is not empty")] = False,
) -> None:
    """The main job, end to end: three problems on densities, then a digit unlearned; leaves one page with pictures."""
    make_problem("likelihood", [level])
    need_extra()
    from .cache import default_folder
    from .cli_toy import demo_section
    from .demo import run_demo
    from .output import OutputFolder

    with OutputFolder(output, overwrite) as folder:
        opening = demo_section(folder)
        summary = run_demo(folder, opening, concept, level, judged, seed, cache or default_folder())
    typer.echo(summary)
    typer.echo(f"open {output / 'index.html'}")


def main() -> None:
    """Entry point: errors in the input are one clear line and exit code 2; nothing is half-written."""
    try:
        app()
    except (ValueError, FloatingPointError, OSError, ImportError) as error:
        typer.echo(f"unlearn: error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
