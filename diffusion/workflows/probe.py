"""What one evaluation and one training row take of time and memory, by asking the network two or three times.

::

    bytes of a run  ≈  weights + max( batch of evaluations,  rows in a step · bytes kept for a row's gradient + 20 P )

with P the number of trained parameters (value, gradient, two moments and average in float32). The network is asked
where it lies: nothing is loaded or copied for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from diffusion.pipelines import Denoiser
from diffusion.pipelines.base import device_of
from diffusion.pipelines.batch_size import evaluation_limit
from diffusion.runtime import memory
from diffusion.runtime.precision import checkpointed, in_precision
from diffusion.tasks.config import FitConfig
from diffusion.training.lora import add_lora, undo

BATCH, REPEATS = 16, 3
SLOW = 2.0  # seconds of one row, above which a larger batch would say the same and take minutes
TRAINED = 20  # bytes of a trained parameter


@dataclass(frozen=True)
class Probe:
    """Seconds of one evaluation in a batch of ``rows``; in bytes: all components' ``weights``, what that ``batch`` took
    beside them (None where the system does not say), and what is ``kept`` for the gradient of one row; the number of
    parameters that are ``trained``."""

    seconds: float
    rows: int
    weights: int
    batch: int | None
    kept: int
    trained: int

    def training(self, fit: FitConfig) -> int:
        """Bytes that a step of training takes beside the weights."""
        rows = -(-fit.train_batch_size // fit.gradient_accumulation_steps)
        copy = 4 * self.trained if fit.adapter_rank is None else 0  # of the base model's weights
        return rows * self.kept + TRAINED * self.trained + copy

    def lines(self, fit: FitConfig) -> list[str]:
        """For people."""
        rows = -(-fit.train_batch_size // fit.gradient_accumulation_steps)
        parts = f", {fit.gradient_accumulation_steps} times a step" if fit.gradient_accumulation_steps > 1 else ""
        took = "" if self.batch is None else f", {_size(self.batch)} beside the weights"
        most = self.weights + max(self.training(fit), self.batch or 0)
        return [
            f"one evaluation took {1e3 * self.seconds:.3g} ms in a batch of {self.rows}{took}",
            f"memory, about: {_size(self.weights)} for the weights of all components; {_size(self.training(fit))} for "
            f"training, with {rows} rows of {_size(self.kept)}{parts} and {self.trained:,} parameters; {_size(most)} "
            "in all (where a step does not fit, it is taken in parts)",
        ]


def probe(denoiser: Denoiser, prompt: str, fit: FitConfig) -> Probe:
    """Measure; the pipeline is left as it was.

    The first pass, with a gradient, warms up and counts what it keeps. Then the least of a few timed batches, or one
    row alone where that takes seconds. Raises ``ValueError`` where the network cannot be trained as ``fit`` says.
    """
    device, pipeline = device_of(denoiser), denoiser.pipeline
    kept, trained = _gradient_of_a_row(denoiser, prompt, fit)
    modules = [each for each in pipeline.components.values() if isinstance(each, nn.Module)]
    weights = sum(p.numel() * p.element_size() for module in modules for p in module.parameters())
    with _peak(device) as peak:
        seconds, rows = _timed(denoiser, prompt, 1), 1
    if seconds <= SLOW:
        rows = evaluation_limit(denoiser, BATCH).rows
        with _peak(device) as peak:
            seconds = min(_timed(denoiser, prompt, rows) for _ in range(REPEATS)) / rows
    return Probe(seconds, rows, weights, peak[0] if peak else None, kept, trained)


def _states(denoiser: Denoiser, prompt: str, rows: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((rows, *denoiser.sample_shape), generator=generator)
    t = torch.randint(denoiser.levels, (rows,), generator=generator)
    device = device_of(denoiser)
    return x.to(device), t.to(device), denoiser.condition([prompt] * rows)


def _timed(denoiser: Denoiser, prompt: str, rows: int) -> float:
    device, given = device_of(denoiser), _states(denoiser, prompt, rows)
    with torch.no_grad():
        started = time.perf_counter()
        denoiser.predict(*given)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _gradient_of_a_row(denoiser: Denoiser, prompt: str, fit: FitConfig) -> tuple[int, int]:
    """Bytes that autograd keeps of one row's forward pass, weights not counted, and the parameters trained by it."""
    network, rank = denoiser.network, fit.adapter_rank
    asked = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    training = network.training
    if rank is None:
        network.requires_grad_(True)
        parameters = list(network.parameters())
    else:
        parameters = add_lora(denoiser, rank, fit.seed)
    held = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}

    def of(rows: int) -> int:
        kept: dict[int, int] = {}

        def note(value: Tensor) -> Tensor:
            storage = value.untyped_storage()
            if storage.data_ptr() not in held:
                kept[storage.data_ptr()] = storage.nbytes()
            return value

        with (
            checkpointed(network, fit.gradient_checkpointing),
            in_precision(network, fit.mixed_precision),
            torch.autograd.graph.saved_tensors_hooks(note, lambda value: value),
        ):
            said = denoiser.predict(*_states(denoiser, prompt, rows))
            del said
        return sum(kept.values())

    try:
        network.train()
        # Under autocast weights are kept in another type as well, once for a step and not for each of its rows.
        kept = of(1) if fit.mixed_precision == "no" else of(2) - of(1)
        return kept, sum(parameter.numel() for parameter in parameters)
    finally:
        if rank is not None:
            undo(denoiser)
        for parameter, wanted in asked:
            parameter.requires_grad_(wanted)
        network.train(training)


@contextmanager
def _peak(device: torch.device) -> Iterator[list[int]]:
    """What is taken inside beyond what is held before, put into the list at the end; nothing where nobody says."""
    found: list[int] = []
    if device.type == "cuda":
        memory.free_unused(device)
        held = memory.allocated(device)
        yield found
        found.append(memory.peak(device) - held)
        return
    before = None
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: the peak begins anew
        before = _status("VmRSS")
    yield found
    if before is not None and device.type == "cpu":
        found.append(max(0, (_status("VmHWM") or before) - before))


def _status(name: str) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{name}:"):
                return 1024 * int(line.split()[1])
    return None


def _size(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB" if count < 2**30 else f"{count / 2**30:,.1f} GiB"
