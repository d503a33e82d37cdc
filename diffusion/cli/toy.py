"""The commands ``solve``, ``frontier`` and ``verify``: densities that are known exactly. Needs no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from diffusion.cli.ratio_files import number, read_ratios
from diffusion.runtime.files import atomic_write, check_file, check_folder, write_text
from diffusion.tasks.levels import KINDS

EXAMPLE_HELP = "a named toy, or a safetensors file with `values` (n, m) and optionally `log_weights` and `priors`"


def _chosen(problems: Any, name: str) -> list[Any]:
    if name == "all":
        return list(problems)
    if name not in KINDS:
        raise ValueError(f"problem must be all, {', '.join(KINDS)}, got {name!r}")
    found = [problem for problem in problems if type(problem) is KINDS[name]]
    if not found:
        raise ValueError(f"this example has no {name} problem; it has {', '.join(type(p).__name__ for p in problems)}")
    return found


def _documents(answers: list[Any]) -> dict[str, str]:
    """File name -> what `du.Solution.from_json` reads: solution.json, or one for each of several problems."""
    if len(answers) == 1:
        return {"solution.json": answers[0].to_json() + "\n"}
    names = {kind: name for name, kind in KINDS.items()}
    return {f"solution-{names[type(each.problem)]}.json": each.to_json() + "\n" for each in answers}


def _problem(name: str, levels: list[float]) -> Any:
    if name not in KINDS:
        raise ValueError(f"problem must be {', '.join(KINDS)} with own levels, got {name!r}")
    return KINDS[name](np.array(levels, dtype=float))


def solve(
    source: Annotated[str, typer.Argument(help=EXAMPLE_HELP)] = "worked",
    problem: Annotated[str, typer.Option(help="all, reverse-kl, forward-kl or likelihood")] = "all",
    level: Annotated[
        list[float] | None, typer.Option(parser=number, help="own level, one per constraint; default: the example's")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="folder for solution.json (one for each of several problems) and figure.png")
    ] = None,
) -> None:
    """Solve a toy (or cached ratios) exactly: table, certificate, and with --output JSON and a figure."""
    import duality as du
    import toy

    if output is not None:
        check_folder(output, "output")
    cached = read_ratios(source)
    if cached is not None:
        if not level:
            raise ValueError("level is needed with cached ratios")
        answers = [du.solve(_problem(problem, level), cached)]
        for answer in answers:
            typer.echo(str(answer))
    else:
        example = toy.example(source)
        problems = [_problem(problem, level)] if level else _chosen(example.problems, problem)
        found = [
            toy.solve(each, example.pretrained, example.unlearn, priors=example.priors or None) for each in problems
        ]
        answers = [each.solution for each in found]
        typer.echo(f"{example.title}\n")
        for answer in answers:
            typer.echo(f"{answer}\n")
    if output is not None:
        for name, text in _documents(answers).items():
            write_text(output / name, text)
        if cached is None:
            from toy.plots import solve_figure

            with atomic_write(output / "figure.png") as partial:
                solve_figure(found, example.title).savefig(partial, dpi=130, format="png")
        typer.echo(f"written to {output}")


def frontier(
    source: Annotated[str, typer.Argument(help=EXAMPLE_HELP)] = "worked",
    problem: Annotated[str, typer.Option(help="reverse-kl, forward-kl or likelihood")] = "likelihood",
    level: Annotated[
        list[float] | None, typer.Option(parser=number, help="levels, the same for every constraint")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="folder for frontier.json and figure.png")] = None,
) -> None:
    """The trade-off curve: least cost against level; its slope is the multiplier."""
    import duality as du
    import toy

    if output is not None:
        check_folder(output, "output")
        if level and len(level) < 2:
            raise ValueError("level: a curve needs at least two, got one; with no output a single one is solved")
    cached = read_ratios(source)
    if cached is not None:
        base, ratios = _problem(problem, [0.01]), cached
    else:
        example = toy.example(source)
        base = _chosen(example.problems, problem)[0]
        answer = toy.solve(base, example.pretrained, example.unlearn, priors=example.priors or None)
        ratios = answer.ratios
    levels = np.array(level if level else _default_levels(base, ratios), dtype=float)
    solutions = du.frontier(base, ratios, levels)
    typer.echo(f"{'level':>10}  {'cost (nats)':>12}  {'multipliers':>24}  status")
    for value, each in zip(levels, solutions, strict=True):
        shown = " ".join(f"{lam:.5g}" for lam in each.multipliers)
        typer.echo(f"{value:10.5g}  {each.dual:12.6g}  {shown:>24}  {each.status.name.lower()}")
    if output is not None:
        from diffusion.reports.exact import frontier_document

        write_text(output / "frontier.json", frontier_document(solutions).to_json())
        from toy.plots import plot_frontier

        with atomic_write(output / "figure.png") as partial:
            plot_frontier(solutions).figure.savefig(partial, dpi=130, format="png")
        typer.echo(f"written to {output}")


def _default_levels(problem: Any, ratios: Any) -> Any:
    """Twelve levels from where q stands to the example's own, or a hundredth of a likelihood."""
    present = problem.bind(ratios).levels_of(ratios, ratios.log_weights)
    asked = problem.levels if problem.levels.size > 1 else np.repeat(problem.levels, ratios.m)
    return np.linspace(present, asked, 12)[:, 0] if ratios.m == 1 else np.linspace(present.max(), asked.max(), 12)


def verify(
    instances: Annotated[int, typer.Option(help="fresh random instances per theorem")] = 1000,
    jobs: Annotated[int | None, typer.Option(help="processes; by default one per core")] = None,
    seed: Annotated[int | None, typer.Option(help="seed; by default a new one, which is printed")] = None,
    output: Annotated[Path, typer.Option(help="the same table as JSON")] = Path("verify.json"),
) -> None:
    """Check every theorem on fresh random instances: worst error, tolerance, verdict. Exit 1 on a failure."""
    from diffusion.reports.exact import verification_document
    from toy.verification.verify import left_out, table
    from toy.verification.verify import verify as check

    check_file(output)
    chosen = seed if seed is not None else int(np.random.default_rng().integers(2**31))
    typer.echo(f"seed {chosen}")
    results = check(instances, chosen, jobs=jobs or os.cpu_count() or 1)
    typer.echo("\n".join([table(results), *left_out()]))
    write_text(output, verification_document(results, chosen, left_out()).to_json())
    typer.echo(f"written to {output}")
    if not all(result.passed for result in results):
        raise typer.Exit(1)


def explore(
    port: Annotated[int, typer.Option(help="port on this machine; 0 takes a free one")] = 5006,
    show: Annotated[bool, typer.Option(help="open a browser")] = True,
) -> None:
    """A local web page on 2-D mixtures: drag modes and levels, see target, dual function, trade-off and samplers."""
    from toy.explorer import serve

    serve(port, show)


def demo_section(folder: Path) -> tuple[str, Path]:
    """The toy part of the demo: (text of the solutions, path of the figure)."""
    import toy
    from toy.plots import solve_figure

    example = toy.example("worked")
    found = [toy.solve(each, example.pretrained, example.unlearn, priors=example.priors) for each in example.problems]
    path = folder / "toy.png"
    solve_figure(found, example.title).savefig(path, dpi=110)
    text = "\n\n".join(str(each.solution) for each in found)
    typer.echo(text)
    return text, path
