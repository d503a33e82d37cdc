"""What ratios, guidance and fitting need of a pipeline, whatever its family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from diffusion.pipelines.schedules import Noising

# What a network is told besides state and noise level: tensors (n, ...) by name, one row per prompt.
Condition = dict[str, Tensor]


def rows(condition: Condition, index: Tensor | slice) -> Condition:
    """The rows ``index`` of every tensor of a condition."""
    return {name: value[index] for name, value in condition.items()}


def repeat(condition: Condition, count: int) -> Condition:
    """A condition of one row, ``count`` times (a view, no copy)."""
    return {name: value.expand(count, *value.shape[1:]) for name, value in condition.items()}


@runtime_checkable
class Denoiser(Protocol):
    """One view of a diffusers pipeline: its noise levels, its prompts, its network's word on a noised state.

    The rest stays diffusers' own. :func:`diffusion.pipelines.denoiser_of` finds the right one for a pipeline.
    """

    @property
    def pipeline(self) -> Any: ...

    @property
    def network(self) -> nn.Module: ...

    @property
    def component(self) -> str:
        """The pipeline's name for the network, ``unet`` or ``transformer``."""
        ...

    @property
    def levels(self) -> int:
        """Noise levels t = 0 .. levels - 1, from least to most noise."""
        ...

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Of one latent (or of one image, without a VAE)."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its images, in pixels."""
        ...

    @property
    def size_unit(self) -> int | None:
        """What height and width must be multiples of; None where the pipeline has one size only."""
        ...

    @property
    def classifier_free(self) -> bool:
        """Whether a guidance scale s above 1 asks the network twice, f_0 + s (f_c - f_0)."""
        ...

    @property
    def told_guidance(self) -> float | None:
        """The guidance scale that the network itself is told; None where it is told none."""
        ...

    def noising_of(self, scheduler: Any) -> Noising:
        """The noise levels of a scheduler. ``ValueError`` where the family cannot have it."""
        ...

    def set_timesteps(self, scheduler: Any, steps: int) -> None:
        """As the pipeline's own call sets its scheduler to so many steps."""
        ...

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Ends of the names of the layers that adapters go to."""
        ...

    @property
    def exports(self) -> tuple[str, ...]:
        """Formats of other programs that its LoRAs have names in."""
        ...

    @property
    def by_steps(self) -> bool:
        """Whether samples are made step by step, since the pipeline's own call takes no noise."""
        ...

    @property
    def free_text(self) -> bool:
        """Whether a prompt may be any text; else it is one of a list, such as classes."""
        ...

    def spoken(self, prompt: str) -> str:
        """A prompt as an argument of the pipeline's call, in Python."""
        ...

    @property
    def prompt_inputs(self) -> tuple[str, ...]:
        """The parts of a condition that depend on the prompt; none where the pipeline takes no prompts."""
        ...

    def condition(self, prompts: Sequence[str]) -> Condition: ...

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``(signal, noise)`` at ``t`` (n,), each shaped to multiply a batch of states."""
        ...

    def level(self, timestep: Tensor) -> Tensor:
        """The levels (n,) nearest to what the network is told by a sampler, ``timestep`` (n,)."""
        ...

    def predict(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The network's raw output at states ``x`` (n, ...), levels ``t`` (n,); on the device and in the type of x."""
        ...

    def call(self, x: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """The same at timesteps (n,), which need not lie on a level."""
        ...

    def read(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Condition]:
        """State (n, ...), timesteps (n,) and condition of a call that a sampler makes to the network."""
        ...

    def reworded(self, args: tuple[Any, ...], kwargs: dict[str, Any], condition: Condition) -> dict[str, Any]:
        """The arguments of that call, by name, with the parts that ``condition`` has in the place of its own."""
        ...

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What ``predict`` is trained to return in the mean."""
        ...

    def epsilon(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The noise prediction that a raw output amounts to; the score is ``-epsilon / noise``."""
        ...

    def slope(self, t: Tensor) -> Tensor:
        """``d output / d epsilon`` at fixed ``x``, shaped to multiply a batch of states."""
        ...

    @property
    def bottleneck(self) -> nn.Module:
        """The inner module whose activations say most about the whole image."""
        ...

    def activations(self, output: Any) -> Tensor:
        """The activations (n, c, h, w) in what the bottleneck returns; tokens are put back in their places."""
        ...


def add_noise(denoiser: Denoiser, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """``signal(t) x_0 + noise(t) eps``."""
    signal, noise = denoiser.schedule(t)
    return signal * x0 + noise * eps


def predicted_x0(denoiser: Denoiser, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """What a raw output (n, ...) at states x says of x_0: ``(x - noise epsilon) / signal``."""
    signal, noise = denoiser.schedule(t)
    return (x - noise * denoiser.epsilon(output, x, t)) / signal


def generators(seed: int, count: int) -> list[torch.Generator]:
    """A generator for each of ``count`` samples, so that none depends on who is in its batch."""
    seeds = torch.randint(2**62, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    return [torch.Generator().manual_seed(some) for some in seeds]


def noise_of(chances: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    """Noise `(n, *shape)`, row j by generator j, on the CPU."""
    return torch.stack([torch.randn(tuple(shape), generator=chance) for chance in chances])


def device_of(denoiser: Denoiser) -> torch.device:
    return next(denoiser.network.parameters()).device
