"""Every baseline over its own strengths, steps and rates beside ours, on one concept of ``wardrobe``; resumes."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from diffusion.evaluation.sweep.canvas import CanvasTask, law_of
from diffusion.evaluation.sweep.frontier import BEFORE, read_points, table
from diffusion.evaluation.sweep.frontier_plots import plot
from diffusion.evaluation.sweep.measure import CHAIN_STEPS, Made, Measured, costs, counts, make, measure, unmoved
from diffusion.evaluation.sweep.plan import GUIDANCE, GUIDANCE_SAMPLES, MEASURED_BY, OURS, REJECTION, Sweep
from diffusion.evaluation.sweep.point import Point, Setting
from diffusion.evaluation.sweep.target import measure_target, solve
from diffusion.methods.base import ErasureContext
from diffusion.methods.erasure import erasure_of
from diffusion.pipelines import Denoiser
from diffusion.runtime.files import atomic_write, say, write_text
from diffusion.runtime.progress import Bar, progress_bar
from diffusion.tasks.config import Config, EvaluationConfig, FitConfig, RatiosConfig, Sampling
from diffusion.tasks.task import Concept, ConceptTask
from diffusion.training.lora import undo
from diffusion.wardrobe.classifiers import classifiers
from diffusion.workflows.detected import unlearn_detected

FEATURES = "features of retained samples"
OTHER_LAYERS = 0.5  # of ours: two hundred steps are few, and what they move beside words retained prompts pay for


def run_sweep(denoiser: Denoiser, task: CanvasTask, sweep: Sweep, folder: Path, bar: Bar = progress_bar) -> list[Point]:
    """Run what is not in ``folder`` yet, one JSON a point, then ``sweep.txt`` and ``sweep.png`` of all that is there.

    A method that diverges, or whose problem has nothing to do or no answer, is reported as such. Raises ``ValueError``
    where a point of the folder belongs to another task.
    """
    folder.mkdir(parents=True, exist_ok=True)
    asked = {
        "concept": task.name,
        "sampling": _law(denoiser, sweep.sampling),
        "measured": _looked(sweep.measured),
        "rank": sweep.rank,
        "samples": sweep.samples,
    }
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
    for point in read_points(folder):
        if point.task != digest:
            raise ValueError(f"{folder} holds points of another task, sampler or count: choose another output folder")
    before = Setting(
        method=BEFORE, strength=0.0, max_train_steps=0, learning_rate=0.0, train_batch_size=0, full_weights=False
    )
    missing = [each for each in [before, *sweep.settings()] if not (folder / f"point-{each.label}.json").exists()]
    base: Made | None = None
    for setting in missing[: None if sweep.points is None else sweep.points]:
        say(f"{task.name}: {setting.label}")
        if base is None:
            undo(denoiser)
            base = _of_base(denoiser, task, sweep, folder / f"before-{digest}.npz")
        found = _one(denoiser, task, sweep, setting, base, bar)
        write_text(folder / f"point-{setting.label}.json", found.model_copy(update={"task": digest}).to_json())
    points = read_points(folder)
    write_text(folder / "sweep.txt", "\n".join(table(points, MEASURED_BY)) + "\n")
    plot(points, MEASURED_BY, folder / "sweep.png")
    return points


def _looked(measured: Measured) -> dict[str, Any]:
    """How much is looked at; steps of the chain are named where they are not those of all sweeps."""
    found = asdict(measured)
    return found if measured.chain_steps != CHAIN_STEPS else {k: v for k, v in found.items() if k != "chain_steps"}


def _law(denoiser: Denoiser, sampling: Sampling) -> dict[str, Any]:
    """Steps and guidance of a law, and what of it is not the pipeline's own: one name for one law, however given."""
    own, full = Sampling().resolved(denoiser).plain(), sampling.resolved(denoiser).plain()
    always = ("num_inference_steps", "guidance_scale", "negative_prompt")
    return {name: value for name, value in full.items() if name in always or value != own[name]}


def _of_base(denoiser: Denoiser, task: CanvasTask, sweep: Sweep, path: Path) -> Made:
    """What the base model makes, kept beside the points."""
    parts = _kept(path)
    if FEATURES in parts:  # files of before KID was measured have none
        asked = task.groups(sweep.measured.samples, sweep.measured.seed)
        names = [classifier.name for classifier in classifiers()]
        said = {name: {by: parts[f"{name} by {by}"] for by in names} for name in asked}
        return Made(asked, {name: parts[name] for name in asked}, said, parts[FEATURES])
    made = make(denoiser, task, sweep.sampling, sweep.measured)
    said_parts = {f"{name} by {by}": labels for name, some in made.said.items() for by, labels in some.items()}
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **made.views, **said_parts, **{FEATURES: made.features})
    return made


def _kept(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _one(denoiser: Denoiser, task: CanvasTask, sweep: Sweep, setting: Setting, base: Made, bar: Bar) -> Point:
    command = shlex.join(["unlearn", *sys.argv[1:]])
    wall, processor = time.monotonic(), time.process_time()
    try:
        with counted_rows(denoiser.network) as rows:
            if setting.method in (OURS, GUIDANCE):
                _fit_ours(denoiser, task, sweep, setting, bar)
            elif setting.method == REJECTION:
                budget = RatiosConfig(num_samples=sweep.samples, seed=setting.seed)
                multipliers = solve(denoiser, task, sweep.sampling, setting.strength, budget, bar)
            elif setting.method != BEFORE:
                erasure_of(setting.method, setting.strength).fit(context_of(denoiser, task, sweep, setting))
        seconds, cpu = time.monotonic() - wall, time.process_time() - processor
        fitted = setting.method not in (BEFORE, REJECTION)
        held = [p for p in denoiser.network.parameters() if p.requires_grad] if fitted else []
        size = sum(p.numel() * p.element_size() for p in held)
        if setting.method == BEFORE:
            figures = (
                counts(task, base)
                + unmoved(task, base, sweep.measured)
                + costs(denoiser, task, sweep.sampling, sweep.measured)
            )
        elif setting.method == REJECTION:
            figures = measure_target(denoiser, task, sweep.sampling, sweep.measured, base, multipliers)
        else:
            figures = measure(denoiser, task, sweep.sampling, sweep.measured, base)
    except (FloatingPointError, ArithmeticError, ValueError) as error:
        return Point(task="", concept=task.name, setting=setting, command=command, failed=str(error))
    finally:
        undo(denoiser)
    return Point(
        task="",
        concept=task.name,
        setting=setting,
        command=command,
        figures=tuple(figures),
        seconds=seconds,
        cpu_seconds=cpu,
        network_evaluations=rows[0],
        bytes=size,
    )


def context_of(denoiser: Denoiser, task: CanvasTask, sweep: Sweep, setting: Setting) -> ErasureContext:
    """What a baseline sees."""
    config = FitConfig(
        max_train_steps=setting.max_train_steps,
        learning_rate=setting.learning_rate,
        train_batch_size=setting.train_batch_size,
        full_weights=setting.full_weights,
        rank=sweep.rank,
        seed=setting.seed,
    )
    return ErasureContext(
        denoiser,
        task.asking,
        task.anchors,
        task.retained,
        config,
        task.relabelled,
        guidance_scale=sweep.sampling.scale(denoiser),
        num_inference_steps=sweep.sampling.steps(denoiser),
    )


def _fit_ours(denoiser: Denoiser, task: CanvasTask, sweep: Sweep, setting: Setting, bar: Bar) -> None:
    """A level on the CNN as detector, solved and fitted; its own survey and evaluation are part of what it takes.

    The level itself is asked for (``aim=1``): to show it on these few samples is not, which would take a tenth of it.
    """
    along = setting.method == GUIDANCE
    fit = context_of(denoiser, task, sweep, setting).config.but(
        method="guidance" if along else "tilted",
        fixed_multipliers=sweep.quick,
        other_layers=1.0 if along else OTHER_LAYERS,
    )
    samples = sweep.samples * (GUIDANCE_SAMPLES if along and not sweep.quick else 1)
    steps = 20 if sweep.quick else 400 if along else 200
    config = Config(
        sampling=sweep.sampling,
        ratios=RatiosConfig(num_samples=samples, noisings=4, classifier_steps=steps, seed=setting.seed),
        fit=fit,
        evaluation=EvaluationConfig(
            samples=round(4 / setting.strength), integrated=4, other_scales=False, aim=1.0, seed=9000 + setting.seed
        ),
    )
    said = ConceptTask(
        concepts=[Concept(task.name, detector=task.detector())], levels=[setting.strength], prompts=law_of(task)
    )
    unlearn_detected(denoiser, said.law, {task.name: task.detector()}, said.constraints, config, bar=bar)


@contextmanager
def counted_rows(network: nn.Module) -> Iterator[list[int]]:
    """A list of one number: rows that the network is asked about inside, forward passes alone."""
    seen = [0]

    def count(_module: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        state = args[0] if args else kwargs["sample"]
        seen[0] += len(state)

    handle = network.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()
