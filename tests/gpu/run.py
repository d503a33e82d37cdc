"""All of it on one accelerator in minutes: ``tests/gpu/run.sh``, which calls ``python -m tests.gpu.run``.

Parts, in this order: matrix products (the ceiling), SD 1.5 and SDXL at full size in bfloat16 through every stage of
`diffusion.unlearn`, FLUX, parity of number types, the solver, and ``digits`` end to end. Weights of the large pipelines
are random, so what they make says nothing; what they cost does. ``gpu.json`` is written after every part. A part that
fails is named in it with its error, the others go on, and the exit status is 1. A part is left out, with a line that
says so, where the minutes are used up.

``--tiny``: the same parts with tiny networks, for a CPU: that the program runs, not what anything costs.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import diffusers
import torch
import transformers

import diffusion
import duality as du
from diffusion.pipelines import denoiser_of
from diffusion.pipelines.sampling import sample_latents
from diffusion.runtime.files import write_text
from diffusion.workflows.validation import NothingToDo
from duality import ratios as ratios_of
from tests.gpu import measure
from tests.gpu.job import TINY, Job, Sizes, Skipped

SCHEMA = 1
BEYOND = {du.ReverseKL: 1.2, du.ForwardKL: 1.02}
CONCEPT, RETAINED = "a photo of a tench", ["a photo of a goldfish", "a photo of a boat"]


def products(job: Job) -> dict[str, Any]:
    return {
        "side": job.sizes.side,
        "tera_flop_per_second": measure.ceilings(job.device, job.sizes.side, job.sizes.repeats),
    }


def stages_of(name: str) -> Callable[[Job], dict[str, Any]]:
    """Every stage of `diffusion.unlearn` on a pipeline in bfloat16, beside its bare network."""

    def part(job: Job) -> dict[str, Any]:
        index = ("sd15", "sdxl").index(name)
        started = time.perf_counter()
        pipeline = job.pipeline(name, torch.bfloat16)
        denoiser = denoiser_of(pipeline)
        measure.synchronise(job.device)
        found: dict[str, Any] = {
            "dtype": "bfloat16",
            "parameters": sum(p.numel() for p in denoiser.network.parameters()),
            "sample_shape": list(denoiser.sample_shape),
            "seconds_to_build": time.perf_counter() - started,
            "bare": measure.bare(denoiser, job.sizes.batches[index], 8, job.sizes.repeats, CONCEPT),
        }
        count = job.sizes.samples[index]
        task = diffusion.ConceptTask(
            concepts=[diffusion.Concept(CONCEPT, prior=0.1)],
            problem="reverse-kl",
            levels=[0.3],
            retained_prompts=RETAINED,
        )
        config = diffusion.Config(
            sampling={"num_inference_steps": job.sizes.sampler_steps},
            ratios={
                "num_samples": 2 * count,
                "concept_samples": count,
                "retained_samples": count,
                "noisings": 2,
                "classifier_steps": 20,
                "elbo_samples": 4,
                "elbo_noise_levels": 2,
            },
            fit={
                "max_train_steps": job.sizes.train_steps,
                "train_batch_size": job.sizes.train_batch,
                "rank": 4,
                "fixed_multipliers": True,
            },
            evaluation={"samples": 4, "retained_samples": 4, "integrated": 4},
        )
        with tempfile.TemporaryDirectory() as folder, measure.Recorder(denoiser) as recorder:
            output = Path(folder) / "out"
            _with_something_to_do(
                lambda task: diffusion.unlearn(pipeline, task, config, output=output, bar=recorder), task, recorder
            )
            found["written"] = sorted(path.name for path in output.iterdir())
        found["stages"] = recorder.stages
        return found

    return part


def _with_something_to_do(unlearn: Callable[[Any], Any], task: Any, recorder: Any) -> None:
    """Random weights may have the nats that are asked for already: then more than those, and the stages from there."""
    try:
        unlearn(task)
    except NothingToDo:
        recorder.stages.clear()
        unlearn(task.but(levels=["1.2x"]))


def flux(job: Job) -> dict[str, Any]:
    """One step of FLUX.1 dev forwards, one forwards and backwards with gradient checkpointing, one of its sampler.

    Its second text encoder reads tokens of the first one's vocabulary: one of T5's comes with no package.
    """
    pipeline = job.pipeline("flux", torch.bfloat16)
    denoiser = denoiser_of(pipeline)
    pipeline.transformer.enable_gradient_checkpointing()
    found = {
        "dtype": "bfloat16",
        "parameters": sum(p.numel() for p in denoiser.network.parameters()),
        "sample_shape": list(denoiser.sample_shape),
        "bare": measure.bare(denoiser, 1, 8, 1, CONCEPT),
    }
    with measure.Recorder(denoiser) as recorder, recorder("samples", 1) as shown:
        sample_latents(pipeline, [CONCEPT], seed=0, steps=1, progress=shown.update)
    return found | {"stages": recorder.stages}


def parity(job: Job) -> dict[str, Any]:
    denoiser = denoiser_of(job.pipeline("sd15", torch.float32))
    return {"relative_error": measure.parity(denoiser, 4, CONCEPT)}


def on_the_device(job: Job, rho: torch.Tensor, expected: du.Solution) -> dict[str, Any]:
    """The three problems on a tensor that stays on the device, the second time round; `expected` is Likelihood's.

    A CPU counts as such a device, so that the same passes run where none is at hand.
    """
    found: dict[str, Any] = {}
    with mock.patch.object(ratios_of, "stays", return_value=True):
        ratios = du.LogRatios(rho.to(job.device), priors=[0.1])
    assert isinstance(ratios.stored, torch.Tensor)
    # Beyond what q has, which is what it is said to reach where nothing is asked.
    reverse, forward = (kind(times * du.solve(kind(0.0), ratios).levels) for kind, times in BEYOND.items())
    for problem in (du.Likelihood(0.01), reverse, forward):
        du.solve(problem, ratios)  # kernels are compiled and loaded when they are first called
        measure.synchronise(job.device)
        started = time.perf_counter()
        solution = du.solve(problem, ratios)
        found[type(problem).__name__] = {
            "seconds": time.perf_counter() - started,
            "status": solution.status.name,
            "gap": float(solution.gap),
            "kkt_residual": float(solution.kkt_residual),
        }
        if type(problem) is du.Likelihood:
            found["relative_difference_to_the_host"] = abs(solution.dual - expected.dual) / (1.0 + expected.dual)
    return found


def solver(job: Job) -> dict[str, Any]:
    """The same dual solved on the host and where the ratios lie, in float64 both; weights are taken on the device."""
    n = job.sizes.draws
    z = torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # q = 0.9 N(0, 1) + 0.1 N(3, 1), q_1 the second part; draws of q
    shown = torch.arange(n)[:, None] < n // 10
    x = z + 3.0 * shown
    rho = (3 * x - 4.5) - torch.logaddexp(3 * x - 4.5 + torch.tensor(0.1).log(), torch.tensor(0.9).log())
    started = time.perf_counter()
    solution = du.solve(du.Likelihood(0.01), du.LogRatios(rho, priors=[0.1]))
    took = time.perf_counter() - started
    there = on_the_device(job, rho, solution)
    on_device = rho.to(job.device, torch.float32)
    each = measure.seconds(job.device, lambda: solution.log_weight(on_device), job.sizes.repeats)
    apart = (solution.log_weight(on_device).double().cpu() - solution.log_weight(rho)).abs().max()
    return {
        "draws": n,
        "seconds_on_the_host": took,
        "gap": float(solution.gap),
        "multiplier": float(solution.multipliers[0]),
        "weights_per_second_on_the_device": n / each,
        "largest_difference_of_log_weights_in_float32": float(apart),
        "on_the_device": there,
    }


def digits(job: Job) -> dict[str, Any]:
    """The embedded pipeline by the defaults of ``unlearn distill``, certificate included."""
    task = diffusion.ConceptTask(concepts=["a handwritten seven"], levels=["1%"])
    config = diffusion.Config()
    if job.tiny:
        task = task.but(problem="reverse-kl", levels=[0.3])
        config = diffusion.Config(
            sampling={"num_inference_steps": 2},
            ratios={
                "num_samples": 24,
                "concept_samples": 10,
                "retained_samples": 10,
                "noisings": 2,
                "classifier_steps": 4,
                "elbo_samples": 4,
                "elbo_noise_levels": 2,
            },
            fit={"max_train_steps": 2, "train_batch_size": 6, "rank": 1, "fixed_multipliers": True},
            evaluation={"samples": 4, "retained_samples": 4, "integrated": 4},
        )
    started = time.perf_counter()
    result = diffusion.unlearn("digits", task, config, bar=measure.Quiet)
    certificate = result.certificate
    return {
        "seconds": time.perf_counter() - started,
        "certified": bool(certificate.certified),
        "objections": list(certificate.objections),
        "levels": [found.model_dump(mode="json") for found in result.measured.levels],
    }


PARTS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "matrix_products": products,
    "sd15": stages_of("sd15"),
    "sdxl": stages_of("sdxl"),
    "flux": flux,
    "parity": parity,
    "solver": solver,
    "digits": digits,
}


def run(job: Job, output: Path, minutes: float, only: list[str] | None = None) -> tuple[dict[str, Any], bool]:
    """All parts, or those of ``only``; ``gpu.json`` in ``output``. Returns what was found, and whether all is well."""
    started, fine = time.monotonic(), True
    cuda = job.device.type == "cuda"
    found: dict[str, Any] = {
        "schema_version": SCHEMA,
        "device": torch.cuda.get_device_name(job.device) if cuda else f"{platform.machine()} CPU",
        "accelerator": cuda,
        "tiny": job.tiny,
        "torch": torch.__version__,
        "parts": {},
    }
    for name in only or PARTS:
        if time.monotonic() - started > 60 * minutes:
            found["parts"][name] = {"skipped": f"{minutes:g} minutes were used up before it"}
        else:
            began = time.monotonic()
            try:
                found["parts"][name] = PARTS[name](job)
            except Skipped as reason:
                found["parts"][name] = {"skipped": str(reason)}
            except Exception as error:  # the other parts are to be measured all the same
                fine = False
                traceback.print_exc()
                found["parts"][name] = {"failed": f"{type(error).__name__}: {error}"}
            found["parts"][name]["wall_seconds"] = time.monotonic() - began
        print(f"{name}: {json.dumps(found['parts'][name])[:400]}", flush=True)
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()
        found["seconds"] = time.monotonic() - started
        write_text(output / "gpu.json", json.dumps(found, indent=1) + "\n")
    return found, fine


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="tests/gpu/run.sh", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for gpu.json")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, for a CPU")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="these parts; repeat")
    parser.add_argument("--minutes", type=float, default=6.0, help="no part begins later than this [6]")
    parser.add_argument(
        "--wheels", type=Path, default=Path("wheels"), help="where a wheel with CLIP's vocabulary may lie"
    )
    parser.add_argument("--device", default=None, help="left out, cuda where there is one")
    given = parser.parse_args(arguments)
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    device = torch.device(given.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type != "cuda" and not given.tiny:
        parser.error("no CUDA device was found: --tiny runs the same program on a CPU")
    given.output.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", du.FewDrawsWarning)
        job = Job(TINY if given.tiny else Sizes(), device, given.tiny, given.wheels)
        _, fine = run(job, given.output, given.minutes, given.only)
    return 0 if fine else 1


if __name__ == "__main__":
    raise SystemExit(main())
