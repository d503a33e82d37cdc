"""What is measured: stages of a run, the bare network beside them, matrix products as a ceiling, parity of types.

samples/s        units that a stage's progress bar counts, by its seconds
evaluations/s    rows that the network was asked about, with or without a gradient, by the stage's seconds
peak             most bytes that torch held on the device during the stage; nothing is said of a CPU
TFLOP/s          2 n^3 by the seconds of an n x n matrix product; for a network what torch's own counter counts
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from diffusion.pipelines import Denoiser
from diffusion.training.lora import add_lora, remove_lora

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak(device: torch.device) -> int | None:
    """Most bytes held since :func:`reset_peak`; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def seconds(device: torch.device, call: Callable[[], object], repeats: int) -> float:
    """The least of a few timed calls, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        synchronise(device)
        started = time.perf_counter()
        call()
        synchronise(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Single precision products by TF32 inside, where the device has it; afterwards as before."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def ceilings(device: torch.device, side: int, repeats: int) -> dict[str, float]:
    """TFLOP/s of an n x n matrix product in each type: no network on this device is faster."""
    generator, found = torch.Generator(device).manual_seed(0), {}
    kinds = [(name, dtype, False) for name, dtype in TYPES.items()]
    if device.type == "cuda":
        kinds.append(("tf32", torch.float32, True))
    for name, dtype, quick in kinds:
        a, b = (torch.randn(side, side, generator=generator, device=device).to(dtype) for _ in range(2))
        with tf32(quick):
            found[name] = 2 * side**3 / seconds(device, lambda a=a, b=b: a @ b, repeats) / 1e12
    return found


class Recorder:
    """A progress bar that times stages and counts what the network is asked in them: ``with Recorder(denoiser):``.

    ``stages``: one entry a stage in the order of a run; what lies between two of them is a stage named ``between``.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.device = denoiser, next(denoiser.network.parameters()).device
        self.stages: list[dict[str, Any]] = []
        self._rows = [0, 0]  # without and with a gradient
        self._began: float | None = None

    def __enter__(self) -> Recorder:
        def count(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            state = args[0] if args else kwargs.get("sample", kwargs.get("hidden_states"))
            self._rows[torch.is_grad_enabled()] += len(state)

        self._handle = self.denoiser.network.register_forward_pre_hook(count, with_kwargs=True)
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._end("between", None)
        self._handle.remove()

    def __call__(self, title: str, total: int) -> _Stage:
        return _Stage(self, title.partition(" ")[2] if title[:1].isdigit() else title)

    def _begin(self) -> None:
        synchronise(self.device)
        reset_peak(self.device)
        self._rows[:] = [0, 0]
        self._began = time.perf_counter()

    def _end(self, name: str, units: int | None) -> None:
        assert self._began is not None
        synchronise(self.device)
        took = time.perf_counter() - self._began
        rows, graded = self._rows
        if units is None and not rows + graded:
            return
        self.stages.append(
            {
                "name": name,
                "seconds": took,
                "units": units,
                "units_per_second": None if units is None else units / took,
                "evaluations": rows + graded,
                "evaluations_with_gradient": graded,
                "evaluations_per_second": (rows + graded) / took,
                "peak_bytes": peak(self.device),
            }
        )


class _Stage:
    def __init__(self, recorder: Recorder, name: str) -> None:
        self.recorder, self.name, self.done = recorder, name, 0

    def __enter__(self) -> _Stage:
        self.recorder._end("between", None)
        self.recorder._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.recorder._end(self.name, self.done)
        self.recorder._begin()

    def update(self, count: int = 1) -> None:
        self.done += count


def states(denoiser: Denoiser, count: int, prompt: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Noise (n, ...) at levels spread over the schedule, and the condition of one prompt."""
    device = next(denoiser.network.parameters()).device
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((count, *denoiser.sample_shape), generator=generator).to(device)
    t = torch.linspace(0.05, 0.95, count).mul(denoiser.levels - 1).round().long().to(device)
    return x, t, denoiser.condition([prompt] * count)


def bare(denoiser: Denoiser, batch: int, rank: int, repeats: int, prompt: str) -> dict[str, Any]:
    """The network alone: rows a second forwards, and forwards and backwards with adapters; its share of the ceiling."""
    device = next(denoiser.network.parameters()).device
    x, t, condition = states(denoiser, batch, prompt)

    def forward() -> None:
        with torch.no_grad():
            denoiser.predict(x, t, condition)

    def step() -> None:
        denoiser.predict(x, t, condition).square().mean().backward()

    with FlopCounterMode(display=False) as counter:
        forward()
    flops = counter.get_total_flops() / batch
    reset_peak(device)
    each = seconds(device, forward, repeats) / batch
    found: dict[str, Any] = {
        "batch": batch,
        "tera_flop_per_row": flops / 1e12,
        "forward_rows_per_second": 1 / each,
        "forward_tera_flop_per_second": flops / each / 1e12,
        "forward_peak_bytes": peak(device),
    }
    add_lora(denoiser, rank, 0)
    try:
        reset_peak(device)
        found["step_rows_per_second"] = batch / seconds(device, step, repeats)
        found["step_peak_bytes"] = peak(device)
    finally:
        remove_lora(denoiser)
    return found


def parity(denoiser: Denoiser, count: int, prompt: str) -> dict[str, float]:
    """``|f_type - f| / |f|`` (2-norms over all states), f the prediction in float32 without TF32; the network must be
    in float32. A type that a device cannot compute in is left out."""
    device, component = next(denoiser.network.parameters()).device, denoiser.component
    x, t, condition = states(denoiser, count, prompt)
    own, found = denoiser.network, {}
    with torch.no_grad():
        with tf32(False):
            exact = denoiser.predict(x, t, condition).double()
        kinds = {"bfloat16": torch.bfloat16, "float16": torch.float16}
        if device.type == "cuda":
            kinds = {"tf32": torch.float32, **kinds}
        for name, dtype in kinds.items():
            setattr(denoiser.pipeline, component, own if dtype == torch.float32 else deepcopy(own).to(dtype))
            try:
                with tf32(True) if name == "tf32" else nullcontext():
                    said = denoiser.predict(x, t, condition).double()
            finally:
                setattr(denoiser.pipeline, component, own)
            found[name] = float((said - exact).norm() / exact.norm())
    return found


class Quiet:
    """No progress is shown."""

    def __init__(self, _title: str, _total: int) -> None:
        pass

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, _count: int = 1) -> None:
        pass
