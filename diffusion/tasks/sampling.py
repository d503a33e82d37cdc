"""The sampler whose law is meant, as in the pipeline's own call; what is left out is the pipeline's own default.

:func:`at_law` fills in every field once, before any work: what runs, is kept, written and certified is that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from diffusion.tasks.settings import Settings

if TYPE_CHECKING:  # the command line reads these fields without torch
    from diffusion.pipelines.base import Denoiser

IMAGE_STEPS = "image_inference_steps"  # a pipeline's declaration for forgetting images, beside num_inference_steps


def call_defaults(pipeline: Any) -> dict[str, Any]:
    """:func:`diffusion.pipelines.law.call_defaults`."""
    from diffusion.pipelines import law

    return law.call_defaults(pipeline)


class Sampling(Settings):
    """Scheduler, steps, guidance scale, negative prompt, size. What is None is the pipeline's own default."""

    scheduler: str | None = Field(default=None, description="scheduler's class (default: the pipeline's own)")
    num_inference_steps: int | None = Field(
        default=None, ge=1, description="sampler steps (default: the pipeline's own)"
    )
    guidance_scale: float | None = Field(
        default=None, ge=1, description="of a law of prompts (default: the pipeline's own)"
    )
    negative_prompt: str = Field(default="", description="of a law of prompts")
    height: int | None = Field(default=None, ge=1, description="height in pixels (default: the pipeline's own)")
    width: int | None = Field(default=None, ge=1, description="width in pixels (default: the pipeline's own)")

    def resolved(self, denoiser: Denoiser, steps: str = "num_inference_steps") -> Sampling:
        """The same law with every field filled, by the pipeline's own defaults; filled ones stay.

        ``steps``: the default that is meant, by name. ``ValueError`` for what the pipeline cannot be asked, naming
        the field.
        """
        from diffusion.pipelines.stepping import scheduler_of

        pipeline, default = denoiser.pipeline, call_defaults(denoiser.pipeline)
        kind, size = type(pipeline).__name__, denoiser.size
        guided = denoiser.classifier_free or denoiser.told_guidance is not None
        own = default.get("guidance_scale") if guided else None
        scale = self.guidance_scale if self.guidance_scale is not None else float(own or 1.0)
        if not guided and scale != 1:
            raise ValueError(f"guidance_scale: {kind} has no guidance, got {scale:g}")
        takes = "negative_prompt" in default
        if self.negative_prompt and not (takes and denoiser.classifier_free and scale > 1):
            free = takes and denoiser.classifier_free
            why = f"does nothing at guidance scale {scale:g}" if free else f"{kind} takes none"
            raise ValueError(f"negative_prompt: {why}, got {self.negative_prompt!r}")
        filled = self.but(
            scheduler=self.scheduler or type(pipeline.scheduler).__name__,
            num_inference_steps=self.num_inference_steps or int(default.get(steps, default["num_inference_steps"])),
            guidance_scale=scale,
            height=self.height or size[0],
            width=self.width or size[1],
        )
        scheduler_of(filled._under(denoiser), filled.num_inference_steps or 1)
        return filled

    def _under(self, denoiser: Denoiser) -> Denoiser:
        """The denoiser under this law, all of whose fields are filled."""
        from diffusion.pipelines.law import own_size, under

        size = (self.height or 0, self.width or 0)
        scale = self.guidance_scale if denoiser.told_guidance is not None else None
        if scale is not None and scale == call_defaults(denoiser.pipeline)["guidance_scale"]:
            scale = None
        own = size == own_size(denoiser) and scale is None
        return under(denoiser, scheduler=self.scheduler, size=None if own else size, guidance_scale=scale)

    def steps(self, denoiser: Denoiser) -> int:
        """Of the sampler, by default the pipeline's own.

        ``ValueError`` where scheduler or size are not the denoiser's: :func:`at_law` makes one that has them.
        """
        own: dict[str, Any] = {"scheduler": type(denoiser.pipeline.scheduler).__name__}
        own |= dict(zip(("height", "width"), denoiser.size, strict=True))
        for name, value in own.items():
            asked = getattr(self, name)
            if asked not in (None, value):
                raise ValueError(f"{name}: {asked} is meant, and the pipeline is at {value}; at_law puts it there")
        return self.num_inference_steps or int(call_defaults(denoiser.pipeline)["num_inference_steps"])

    def call(self, denoiser: Denoiser) -> dict[str, Any]:
        """Keywords for :func:`diffusion.pipelines.sampling.sample_latents`; raises as :meth:`steps`."""
        some: dict[str, Any] = {"steps": self.steps(denoiser)}
        if denoiser.prompt_inputs:
            some["guidance_scale"] = self.scale(denoiser)
            if self.negative_prompt:
                some["negative_prompt"] = self.negative_prompt
        return some

    def scale(self, denoiser: Denoiser) -> float:
        """The guidance scale that the pipeline is called with; 1 where it has no guidance of any kind."""
        if not denoiser.classifier_free and denoiser.told_guidance is None:
            return 1.0
        if self.guidance_scale is not None:
            return self.guidance_scale
        return float(call_defaults(denoiser.pipeline).get("guidance_scale", 1.0))

    def mixed_scale(self, denoiser: Denoiser) -> float:
        """s of ``f_0 + s (f_c - f_0)``: 1 where guidance is an input of the network, or there is none."""
        return self.scale(denoiser) if denoiser.classifier_free else 1.0


def at_law(denoiser: Denoiser, sampling: Sampling, steps: str = "num_inference_steps") -> tuple[Denoiser, Sampling]:
    """The denoiser under a law, and the law with every field filled: see :meth:`Sampling.resolved`."""
    filled = sampling.resolved(denoiser, steps)
    return filled._under(denoiser), filled


def of_ratios(denoiser: Denoiser, sampling: Sampling) -> Sampling:
    """The law that log ratios between prompts are of: guidance scale 1 where guidance is no input of the network.

    ``ValueError`` for another scale or a negative prompt: the law of prompts at scale s > 1 is no part of the model's
    law without one.
    """
    if not denoiser.classifier_free:
        return sampling
    if sampling.guidance_scale not in (None, 1) or sampling.negative_prompt:
        raise ValueError(
            f"guidance_scale, negative_prompt: {sampling.guidance_scale or 1:g}, {sampling.negative_prompt!r} given, "
            "but log ratios between prompts are those of guidance scale 1; a detector (Concept(detector=...), "
            "--detector) works at any scale"
        )
    return sampling.but(guidance_scale=1.0)
