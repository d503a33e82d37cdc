"""What was measured of the embedded ``digits`` pipeline: ``quality.json``, by
:mod:`diffusion.digits.experiments.evaluate`."""

from __future__ import annotations

from typing import ClassVar, Literal

from diffusion.runtime.documents import Document, Estimate, Plain


class ParaphraseAgreement(Plain):
    """How often a classifier sees the digit that one paraphrase asked for, over all digits."""

    paraphrase: str
    share: Estimate


class ClassifierQuality(Plain):
    """By one classifier; lists go by digit, 0 to 9. ``anchor_shares``: under prompts that name no digit."""

    by: str
    accuracy_on_held_out: Estimate
    agreement_by_paraphrase: tuple[ParaphraseAgreement, ...]
    agreement_by_digit: tuple[Estimate, ...]
    unconditional_shares: tuple[float, ...]
    anchor_shares: tuple[float, ...]


class NearestImage(Plain):
    """Median distance to the nearest training image, in 8x8 pixels."""

    samples: float
    held_out: float


class DigitsQuality(Document):
    """All of it. Energy distances in 8x8 pixels, of unconditional samples and of training images to held-out ones."""

    title: ClassVar[str] = "digits_quality"
    schema_version: Literal[1] = 1
    sampler_steps: int
    samples_per_prompt: int
    unconditional_samples: int
    energy_distance_to_held_out: float
    training_images_energy_distance_to_held_out: float
    nearest_training_image: NearestImage
    classifiers: tuple[ClassifierQuality, ...]


class DigitsTraining(Document):
    """What training prints when it is done; losses are means over the last 500 steps of a stage."""

    title: ClassVar[str] = "digits_training"
    schema_version: Literal[1] = 1
    seconds: int  # this time: not those of a run that was resumed
    vae_loss: float
    unet_loss: float


class StepCost(Plain):
    """Of one step: ``seconds`` of one thread, ``megabytes`` beyond what was held before the first step."""

    name: str
    seconds: float
    megabytes: float


class StepCosts(Document):
    """What :mod:`diffusion.digits.experiments.step_costs` measured: least time and most memory of all rounds."""

    title: ClassVar[str] = "step_costs"
    schema_version: Literal[1] = 1
    steps: int  # that were counted
    rounds: int
    costs: tuple[StepCost, ...]
