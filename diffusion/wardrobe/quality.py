"""What was measured of the embedded ``wardrobe`` pipeline: ``quality.json``, by
:mod:`diffusion.wardrobe.experiments.evaluate`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from diffusion.runtime.documents import Document, Estimate, Plain

Shares = dict[str, float]  # by the name of an object, a style or a background


class Training(Plain):
    """How the pipeline was trained; losses are means over the last 500 steps."""

    seed: int
    vae_steps: int
    vae_loss: float
    unet_steps: int
    unet_loss: float


class RealRenderings(Plain):
    """How often a classifier is right of ``n`` held-out renderings, on each axis."""

    by: str
    n: int
    object: float
    style: float
    background: float
    object_by_style: Shares
    object_by_object: Shares


class TemplateAgreement(Plain):
    """How often the object of one caption template is seen."""

    template: str
    share: float


class PromptAgreement(Plain):
    """How often samples show what their prompt asked for, by one classifier, or by ``both`` of them at once."""

    guidance_scale: float
    by: str
    object: Estimate
    style: Estimate
    background: Estimate
    object_by_object: Shares = Field(default_factory=dict)
    object_by_style: Shares = Field(default_factory=dict)
    object_by_template: tuple[TemplateAgreement, ...] = ()


class Axes(Plain):
    """One number an axis."""

    object: float
    style: float
    background: float


class AxesShares(Plain):
    """Shares of all classes of each axis."""

    object: Shares
    style: Shares
    background: Shares


class WithoutPrompt(Plain):
    """What is made without a prompt, by one classifier, and the greatest factor from the data's shares."""

    by: str
    shares: AxesShares
    worst_ratio_to_data: Axes


class Distances(Plain):
    """Kernel inception distances to held-out renderings, on the CNN's features."""

    samples_without_prompt: Estimate
    training_renderings: Estimate
    held_out_through_vae: Estimate


class ThroughVAE(Plain):
    """What the VAE alone loses: squared error in [-1, 1], and how often each classifier is right of what is left."""

    mean_squared_error: float
    object_accuracy: Shares


class WardrobeQuality(Document):
    """All of it. ``rounds``: samples of each combination at each guidance scale."""

    title: ClassVar[str] = "wardrobe_quality"
    schema_version: Literal[2] = 2
    sampler_steps: int
    seed: int
    rounds: int
    unconditional_samples: int
    training: Training | None
    held_out_renderings: tuple[RealRenderings, ...]
    agreement: tuple[PromptAgreement, ...]
    without_prompt: tuple[WithoutPrompt, ...]
    kid_to_held_out: Distances
    vae: ThroughVAE
