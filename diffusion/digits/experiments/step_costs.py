r"""What a step of each method costs beside a bare forward and backward pass of the same network.

::

    python -m diffusion.digits.experiments.step_costs                    # digits, the default batch, one thread
    python -m diffusion.digits.experiments.step_costs --only tilted --only guidance --output costs.json

    time      CPU seconds of a step, the mean over ``steps`` steps after two that are not counted
    memory    most resident memory during those steps, less what the process held before the first one (Linux)

The whole table is gone through several times. Each row keeps its shortest time, since whatever else a machine does
makes a step longer and nothing makes it shorter, and its largest memory. Each row runs in a process of its own,
because what a process has once had, it rarely gives back. Both are divided by those of the bare pass as well:
``predict(x, t, c).square().mean().backward()`` on one batch with all weights open. The ratios that the methods need
is small, real, and kept between rows. Measurements between steps (dual rounds) are left out: they are samples, and cost
what samples cost.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from diffusion import need_extra
from diffusion.digits.quality import StepCost, StepCosts
from diffusion.runtime.files import write_text

PROBLEM_LEVEL = 0.01
CONCEPT = "a handwritten seven"
UNCOUNTED = 2


@dataclass(frozen=True)
class Cost:
    """Of one step: ``seconds`` of one thread, ``megabytes`` beyond what was held before the first step."""

    name: str
    seconds: float
    megabytes: float


class _Enough(Exception):
    """All steps that are to be timed are done."""


class _Clock:
    """Called once a step; ends the run after ``count`` counted ones."""

    def __init__(self, count: int) -> None:
        self.count, self.calls = count, 0

    def __call__(self, _count: int) -> None:
        self.calls += 1
        if self.calls == UNCOUNTED:
            self.started = time.process_time()
        if self.calls == UNCOUNTED + self.count:
            self.seconds = (time.process_time() - self.started) / self.count
            raise _Enough


def _status(key: str) -> float:
    """A line of /proc/self/status, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return float(line.split()[1]) / 1024
    raise ValueError(f"/proc/self/status has no {key}: memory is measured on Linux only")


def measured(name: str, run: Callable[[_Clock], Any], steps: int) -> Cost:
    """Run until the clock has counted ``steps`` steps."""
    getattr(ctypes.CDLL(None), "malloc_trim", int)(0)  # memory that was freed but kept would count as held (glibc)
    held = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is held now
    clock = _Clock(steps)
    try:
        run(clock)
    except _Enough:
        return Cost(name, clock.seconds, _status("VmHWM") - held)
    raise RuntimeError(f"{name} ended before {steps + UNCOUNTED} steps were done")


def _measured(name: str, make: Callable[[], Callable[[_Clock], Any]], steps: int) -> Cost:
    return measured(name, make(), steps)


def rows(batch: int | None, steps: int, cache_folder: Path) -> dict[str, Callable[[], Cost]]:
    """Every row of the table by name, each ready to be measured in this process."""
    import torch

    import duality as du
    from diffusion.api import prompts_of
    from diffusion.methods import METHODS, FitContext, ForgetImages, ImageFitContext, Images, PrimalDual, TiltedImages
    from diffusion.pipelines import DIGITS, add_noise, denoiser_of, load_pipeline
    from diffusion.pipelines.fingerprint import fingerprint
    from diffusion.ratios.estimate import estimate_ratios
    from diffusion.runtime.cache import Cache
    from diffusion.tasks.config import FitConfig, RatiosConfig, Sampling
    from diffusion.tasks.task import ConceptTask
    from diffusion.training.lora import add_lora

    torch.set_num_threads(1)
    denoiser = denoiser_of(load_pipeline(DIGITS))
    settings = FitConfig(max_train_steps=steps + UNCOUNTED + 1)
    settings = settings if batch is None else settings.but(train_batch_size=batch)
    budget = RatiosConfig(
        concept_samples=40,
        retained_samples=90,
        num_samples=160,
        noisings=4,
        classifier_steps=150,
        elbo_samples=10,
        elbo_noise_levels=2,
    )
    task = ConceptTask(concepts=[CONCEPT], levels=[PROBLEM_LEVEL])
    estimate = estimate_ratios(
        denoiser,
        prompts_of(denoiser, task),
        budget,
        Sampling(num_inference_steps=8),
        Cache(cache_folder, fingerprint(denoiser.pipeline)),
    )
    solution = du.solve(du.Likelihood(PROBLEM_LEVEL), estimate.ratios)

    def bare(adapters: bool) -> Callable[[_Clock], None]:
        generator = torch.Generator().manual_seed(0)
        x0 = estimate.anchor[torch.randint(len(estimate.anchor), (settings.train_batch_size,), generator=generator)]
        t = torch.randint(denoiser.levels, (settings.train_batch_size,), generator=generator)
        x = add_noise(denoiser, x0, torch.randn(x0.shape, generator=generator), t)
        condition = denoiser.condition([""] * settings.train_batch_size)
        if adapters:
            add_lora(denoiser, settings.rank, 0)
        else:
            denoiser.network.requires_grad_(True)
        denoiser.network.train()

        def run(clock: _Clock) -> None:
            while True:
                denoiser.network.zero_grad()
                denoiser.predict(x, t, condition).square().mean().backward()
                clock(1)

        return run

    def fitted(method: Any, given: FitConfig) -> Callable[[_Clock], Any]:
        return lambda clock: method.fit(FitContext(denoiser, estimate, solution, given, progress=clock))

    def forgotten(method: Any) -> Callable[[_Clock], Any]:
        images = Images(estimate.labelled[:8], 0.01, estimate.anchor)
        return lambda clock: method.fit(ImageFitContext(denoiser, images, 1.0, settings, progress=clock))

    methods = {name: make() for name, make in METHODS.items()}
    # No samples between the steps: one round, and no corrections.
    methods["primal-dual"] = PrimalDual(inner=settings.max_train_steps)
    for name in ("tilted", "guidance"):
        methods[name] = methods[name].uncorrected()
    made: dict[str, Callable[[], Callable[[_Clock], Any]]] = {
        "bare pass, all weights": lambda: bare(False),
        "bare pass, LoRA": lambda: bare(True),
        **{name: partial(fitted, method, settings) for name, method in methods.items()},
        "images, tilted": lambda: forgotten(TiltedImages(inner=settings.max_train_steps, extra=0)),
        "images, primal-dual": lambda: forgotten(ForgetImages(inner=settings.max_train_steps)),
        "tilted, bf16": lambda: fitted(methods["tilted"], settings.but(mixed_precision="bf16")),
        "tilted, accumulate 4": lambda: fitted(methods["tilted"], settings.but(gradient_accumulation_steps=4)),
        "tilted, gradient checkpointing": lambda: fitted(methods["tilted"], settings.but(gradient_checkpointing=True)),
        "tilted, all weights": lambda: fitted(methods["tilted"], settings.but(full_weights=True)),
    }
    return {name: partial(_measured, name, make, steps) for name, make in made.items()}


def table(costs: Sequence[Cost]) -> str:
    """Markdown; the first row is what the others are compared with."""
    bare = costs[0]
    lines = ["| step | CPU s | times bare | memory, MB | times bare |", "|---|---|---|---|---|"]
    for cost in costs:
        lines.append(
            f"| {cost.name} | {cost.seconds:.3f} | {cost.seconds / bare.seconds:.2f} | {cost.megabytes:.0f} | "
            f"{cost.megabytes / bare.megabytes:.2f} |"
        )
    return "\n".join(lines)


def of_rounds(costs: Sequence[Cost]) -> Cost:
    """One row from its measurements in several rounds."""
    return Cost(costs[0].name, min(cost.seconds for cost in costs), max(cost.megabytes for cost in costs))


def main() -> None:
    need_extra()
    parser = argparse.ArgumentParser(
        prog="python -m diffusion.digits.experiments.step_costs", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--batch", type=int, help="total batch size; the fit's default where left out")
    parser.add_argument("--steps", type=int, default=6, help="steps that are counted")
    parser.add_argument("--rounds", type=int, default=3, help="times that the table is gone through")
    parser.add_argument("--only", action="append", help="a row of the table; once per row, beside the bare pass")
    parser.add_argument("--output", type=Path, help="the same as JSON")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help="where the estimate is kept; a folder that goes away where left out")
    given = parser.parse_args()
    for name in ("steps", "rounds"):
        if getattr(given, name) < 1:
            parser.error(f"{name} must be at least 1, got {getattr(given, name)}")
    if given.one is not None:
        cost = rows(given.batch, given.steps, given.cache)[given.one]()
        print(json.dumps({"name": cost.name, "seconds": cost.seconds, "megabytes": cost.megabytes}))
        return
    with tempfile.TemporaryDirectory() as passing:
        folder = str(given.cache or passing)
        every = list(rows(given.batch, given.steps, Path(folder)))
        unknown = set(given.only or []) - set(every)
        if unknown:
            parser.error(f"only must name rows among {', '.join(every)}, got {sorted(unknown)}")
        names = [every[0], *(given.only or every[1:])]
        found: dict[str, list[Cost]] = {name: [] for name in names}
        for name in names * given.rounds:
            words = [sys.executable, "-m", "diffusion.digits.experiments.step_costs", "--steps", str(given.steps)]
            words += ["--one", name, "--cache", folder] + (["--batch", str(given.batch)] if given.batch else [])
            run = subprocess.run(words, capture_output=True, text=True)
            if run.returncode:
                raise SystemExit(f"{name} failed:\n{run.stderr}")
            found[name].append(Cost(**json.loads(run.stdout.splitlines()[-1])))
            print(found[name][-1], file=sys.stderr)
    costs = [of_rounds(found[name]) for name in names]
    print(table(costs))
    if given.output is not None:
        measured = tuple(StepCost(name=one.name, seconds=one.seconds, megabytes=one.megabytes) for one in costs)
        write_text(given.output, StepCosts(steps=given.steps, rounds=given.rounds, costs=measured).to_json())


if __name__ == "__main__":
    main()
