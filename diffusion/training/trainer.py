r"""The one training loop: AdamW under a decaying rate, averaged iterates, checkpoints, exact resumption.

::

    theta_{k+1} = AdamW(theta_k, grad loss_k(theta_k)),    rate_k = rate · min(1, (k+1)/20) · (1 + cos(pi k/steps))/2
    mean_{k+1}  = d_j mean_k + (1 - d_j) theta_{k+1},      d_j = min(0.98, (j+1)/(j+10)),  j = k - start of the mean

These figures are for a fit of some hundred steps; a trainer of another kind of run has its own
(:class:`diffusion.digits.experiments.pretraining.Pretraining`).

``loss_k`` gets a generator of its own, made from the seed and ``k``: a step depends on the weights, the optimiser's
memory and ``k``, on nothing else, so a run that was killed and resumed ends bit-equal on the same CPU. What delivers is
the mean: a level of 1 % is a matter of small steps. The batch of a step may be split over several processes, and
taken in several parts by each (:mod:`diffusion.runtime.distributed`); the weights are those of one process up to
rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from diffusion.runtime.distributed import WHOLE, Part, average, broadcast, broadcast_object, is_main, world
from diffusion.runtime.files import clear_partials, say
from diffusion.runtime.interrupts import Deferred, terminable
from diffusion.runtime.memory import ADVICE, free_unused, is_out_of_memory
from diffusion.runtime.precision import checkpointed, in_precision, is_half
from diffusion.runtime.trackers import log
from diffusion.tasks.config import FitConfig
from diffusion.training.checkpoints import load_checkpoint, save_checkpoint

Progress = Callable[[int], object]


class Objective(Protocol):
    """What a fit minimises: the expectation of a step's loss over its own samples."""

    def __call__(self, step: int, generator: torch.Generator, part: Part = WHOLE, /) -> Tensor:
        """A step's loss on a part of its batch: its number and its own generator to a scalar with a gradient."""
        ...


class Stateful(Protocol):
    """What else a run depends on (multipliers, pools of samples), saved and resumed with the weights."""

    def tensors(self) -> dict[str, Tensor]:
        """Arrays, by name."""

    def data(self) -> Any:
        """Everything else, as plain JSON data; a double survives JSON bit for bit."""

    def load(self, tensors: dict[str, Tensor], data: Any) -> None:
        """Resume from what the other two gave."""


class Trainer:
    """Minimises ``objective`` over ``parameters``; resumes from ``checkpoint`` where that file exists, and says so.

    Checkpoints are written after every ``every`` steps, at the end, and where a first Ctrl-C or SIGTERM asks the run to
    stop, which it does after the step that it is in.

    Raises ``FloatingPointError`` when a loss or a gradient is not finite, before the weights take it; the last
    checkpoint is kept. Raises ``OSError`` naming the file when a checkpoint cannot be written (disk full): the one
    before stays whole.
    """

    weight_decay = 0.0
    longest_mean = 0.98  # decay of the mean, once there is enough to average
    warmup = 20  # steps

    def __init__(
        self,
        network: nn.Module,
        parameters: Sequence[nn.Parameter],
        objective: Objective,
        settings: FitConfig,
        *,
        checkpoint: Path | None = None,
        every: int = 100,
        progress: Progress | None = None,
        state: Stateful | None = None,
    ) -> None:
        self.network, self.parameters, self.objective, self.settings = network, list(parameters), objective, settings
        self.checkpoint, self.every, self.state = checkpoint, every, state
        self._progress: Progress = progress or (lambda _count: None)
        broadcast([parameter.data for parameter in self.parameters])
        self.optimizer = torch.optim.AdamW(self.parameters, lr=settings.peak_rate, weight_decay=self.weight_decay)
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.losses: list[float] = []
        self.done = 0
        self.since = 0  # the step at which the mean began
        self._saved = -1  # the step of the last checkpoint
        self._parts = settings.gradient_accumulation_steps
        # Gradients of a mean over a batch are below what float16 holds: they are scaled by this, see `_backward`.
        self._scale = 2.0**16 if getattr(network, "dtype", None) == torch.float16 else 1.0
        if checkpoint is not None:
            there = checkpoint.exists()
            if broadcast_object(there) != there:
                raise ValueError(f"checkpoint {checkpoint} must lie in a folder that all processes share")
            if is_main():
                clear_partials(checkpoint.parent)
            if there and self.read(checkpoint):
                self._saved = self.done
                self._progress(self.done)

    def run(self, until: int | None = None) -> None:
        """Optimiser steps until ``until`` are done in all (left out: the settings' number)."""
        settings, last = self.settings, self.settings.max_train_steps if until is None else until
        self.network.train()
        stop = False
        try:
            with checkpointed(self.network, settings.gradient_checkpointing), Deferred() as asked:
                for step in range(self.done, last):
                    stop = self._step(step, asked)
                    if self.checkpoint is not None and self.done % self.every == 0 and not stop:
                        self.save()
                    if stop:
                        break
                if asked.signal is not None or stop:
                    self._interrupted()
                    asked.deliver()
        finally:
            self.network.eval()

    def learn_at(self, rates: Sequence[float]) -> None:
        """From here on the learning rate of each parameter is times ``rates``, one for each."""
        groups: dict[float, list[nn.Parameter]] = {}
        for parameter, times in zip(self.parameters, rates, strict=True):
            groups.setdefault(times, []).append(parameter)
        self.optimizer.param_groups.clear()
        for times, some in groups.items():
            self.optimizer.add_param_group({"params": some, "times": times})

    def rate(self, step: int) -> float:
        """The learning rate of a step: warmed up, then along a cosine to zero."""
        return self.settings.peak_rate * min(1.0, (step + 1) / self.warmup) * self.settings.decayed(step)

    def _step(self, step: int, asked: Deferred) -> bool:
        """One step of the optimiser; returns whether any process has been asked to stop."""
        rate = self.rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("times", 1.0)
        loss, terms, stop = self._gradient_that_fits(step, asked)
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if not bool(torch.isfinite(norm)):
            raise FloatingPointError(f"the gradient at step {step} has norm {float(norm)}; {self._kept()}")
        self.optimizer.step()
        age = step - self.since
        decay = min(self.longest_mean, (age + 1) / (age + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, [parameter.data for parameter in self.parameters], 1 - decay)
        self.losses.append(loss)
        self.done = step + 1
        log(self.done, {"loss": loss, **terms, "rate": rate})
        self._progress(1)
        return stop or (world().num_processes == 1 and asked.signal is not None)

    def _gradient_that_fits(self, step: int, asked: Deferred) -> tuple[float, dict[str, float], bool]:
        """As :meth:`_gradient`, in twice as many parts from here on where memory is used up: the same gradient."""
        while True:
            try:
                return self._gradient(step, asked)
            except Exception as error:
                if not is_out_of_memory(error) or world().num_processes > 1:
                    raise  # several processes would have to agree: gradient_accumulation_steps does it by hand
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            self.optimizer.zero_grad()
            free_unused(self.parameters[0].device)
            self._parts *= 2
            if self._parts > self.settings.train_batch_size:
                raise MemoryError(f"a training step of one row does not fit into memory ({reason}); {ADVICE}")
            say(f"training steps in {self._parts} parts from here on, memory was used up")

    def _gradient(self, step: int, asked: Deferred) -> tuple[float, dict[str, float], bool]:
        """The step's gradient, over all parts and processes, into ``.grad``; the loss, its noted terms, and whether to
        stop: known to all processes after the same step, whichever of them was asked."""
        state, parts = world(), self._parts
        self.optimizer.zero_grad()
        total, notes = 0.0, dict[str, float]()
        for j in range(parts):
            part = Part(state.process_index * parts + j, state.num_processes * parts)
            total += self._backward(step, part)
            for name, value in part.notes.items():
                notes[name] = notes.get(name, 0.0) + value / parts
        scalars = torch.tensor([total, float(asked.signal is not None), *notes.values()], dtype=torch.float64)
        average([scalars])
        if not bool(torch.isfinite(scalars[0])):
            raise FloatingPointError(f"the loss at step {step} is {float(scalars[0])}; {self._kept()}")
        average([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        return float(scalars[0]), dict(zip(notes, scalars[2:].tolist(), strict=True)), bool(scalars[1] > 0)

    def _backward(self, step: int, part: Part) -> float:
        """A part's gradient, added to ``.grad``; the part's loss, of which the other processes hear if not finite.

        A network in float16 is gone through again at half the scale where its gradient has overflown: a power of two
        changes no digit of what has not. The scale stays down.
        """
        settings, held = self.settings, [parameter.grad for parameter in self.parameters]
        while True:
            part.notes.clear()
            for parameter in self.parameters:
                parameter.grad = None
            generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
            with in_precision(self.network, settings.mixed_precision):
                loss = self.objective(step, generator, part) / self._parts
            fine = bool(torch.isfinite(loss))
            if fine:
                (loss * self._scale).backward()
            made = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
            if self._scale == 1 or not fine or all(bool(gradient.isfinite().all()) for gradient in made):
                break
            self._scale /= 2
        for parameter, kept in zip(self.parameters, held, strict=True):
            if parameter.grad is not None and self._scale != 1:
                parameter.grad.div_(self._scale)
            if kept is not None:
                parameter.grad = kept if parameter.grad is None else parameter.grad.add_(kept)
        return float(loss.detach())

    def _kept(self) -> str:
        if self.checkpoint is None or not self.checkpoint.exists():
            return "no checkpoint had been written yet"
        return f"the last checkpoint is kept, {self.checkpoint}"

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the network carries the averaged weights: what would be delivered if the run ended here."""
        present = [parameter.detach().clone() for parameter in self.parameters]
        self._put(self.average)
        try:
            yield
        finally:
            self._put(present)

    def average_anew(self) -> None:
        """From here on the mean forgets what came before: for an objective that has just changed."""
        self.since = self.done

    def finish(self) -> list[float]:
        """A checkpoint where the last steps are in none, and the averaged weights in place; the losses of all steps.

        Stock pipelines load adapters in the type of their network: so that what is measured next is what they will
        sample from, the averages take that type here, rounded once.
        """
        if self.done != self._saved:
            self.save()
        self._put(self.average)
        if is_half(self.network):
            for parameter in self.parameters:
                parameter.data = parameter.data.to(cast(torch.dtype, self.network.dtype))
        self.network.eval()
        return self.losses

    def _put(self, values: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)

    def save(self) -> None:
        """A checkpoint of this moment, where there is a place for one (:mod:`diffusion.training.checkpoints`)."""
        if self.checkpoint is not None:
            self.write(self.checkpoint)
            self._saved = self.done

    def write(self, path: Path) -> None:
        """A checkpoint of this moment at a place."""
        save_checkpoint(self, path)

    def read(self, path: Path) -> bool:
        """Go on from a checkpoint; whether it could be used."""
        return load_checkpoint(self, path)

    @contextmanager
    def saved_if_interrupted(self) -> Iterator[None]:
        """For work between steps, such as a measurement: Ctrl-C and SIGTERM leave a checkpoint, and say where."""
        try:
            with terminable():
                yield
        except (KeyboardInterrupt, SystemExit):
            self._interrupted()
            raise

    def _interrupted(self) -> None:
        self.save()
        if not is_main():
            return
        if self.checkpoint is None:
            say(f"interrupted after step {self.done}; without a cache folder nothing of the fit is kept")
        else:
            say(f"interrupted after step {self.done}; the same run goes on from there, {self.checkpoint}")
