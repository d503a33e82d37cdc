"""How a job is done: sampling, ratios, fit, evaluation, runtime. One place says name, type, default and help.

The command line is derived from these fields (:mod:`diffusion.cli.derived`), ``config.yaml`` beside every result holds
them. What is to be done is another matter: :mod:`diffusion.tasks.task`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from diffusion.tasks.presets import FRUGAL, QUICK, over
from diffusion.tasks.sampling import Sampling as Sampling
from diffusion.tasks.settings import Settings

# Share of the peak learning rate for steps beyond the last one asked for, which correct what the fit has missed.
AFTER = 0.1
CONFIG = "config.yaml"  # the file beside a result
HIDDEN: dict[str, Any] = {"flag": None}  # a field for Python and YAML, without an option of its own


class RatiosConfig(Settings):
    """What the log ratios are estimated from. One unit of cost is one network evaluation of one sample."""

    num_samples: int = Field(default=2000, ge=10, description="base-model samples used to estimate the constraint")
    concept_samples: int = Field(
        default=600, ge=10, description="samples of each concept that train the ratio classifier"
    )
    retained_samples: int = Field(
        default=1000, ge=10, description="samples of retained prompts that train that classifier"
    )
    noisings: int = Field(
        default=12, ge=1, description="noised copies of each sample for the ratio classifier", json_schema_extra=HIDDEN
    )
    classifier_steps: int = Field(default=400, ge=1, description="training steps of the ratio classifier")
    elbo_samples: int = Field(default=200, ge=1, description="samples for the ELBO estimate, an independent check")
    elbo_noise_levels: int = Field(default=20, ge=1, description="noise levels of the ELBO estimate")
    seed: int = Field(default=0, ge=0, description="seed of samples and classifier", json_schema_extra=HIDDEN)

    @property
    def anchor_seed(self) -> int:
        """Of the starting noise of q's samples. Samples after a change start from it too, and what differs is the
        change."""
        return 10 * self.seed + 2


class FitConfig(Settings):
    """How a network is fitted to the optimal target."""

    method: str = Field(
        default="tilted",
        description="tilted, guidance, primal-dual; baselines: esd, esd-x, neggrad, siss, erasediff, equal-weights",
    )
    max_train_steps: int = Field(default=340, ge=1, description="optimizer steps")
    train_batch_size: int = Field(default=48, ge=1, description="total batch size, over all processes")
    rank: int = Field(default=8, ge=1, description="rank of the LoRA")
    full_weights: bool = Field(default=False, description="train all weights of the network instead of a LoRA")
    learning_rate: float | None = Field(default=None, gt=0, description="peak rate (default: 2e-3; all weights: 1e-4)")
    retain_share: float = Field(default=1 / 3, ge=0, lt=1, description="fraction of a batch under retained prompts")
    mixed_precision: Literal["no", "bf16"] = Field(default="no", description="no or bf16 (autocast)")
    gradient_accumulation_steps: int = Field(default=1, ge=1, description="gradient accumulation steps")
    gradient_checkpointing: bool = Field(default=False, description="gradient checkpointing: less memory, slower")
    early_stopping_rounds: int | None = Field(
        default=None, ge=1, description="stop after so many rounds with all levels met"
    )
    fixed_multipliers: bool = Field(default=False, description="tilted, guidance: keep the solved multipliers")
    gain: float = Field(
        default=2.0, gt=0, description="how many times over the change is asked for", json_schema_extra=HIDDEN
    )
    other_layers: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="begun at anchors: learning rate of layers beside cross-attention's keys and values, relative",
        json_schema_extra=HIDDEN,
    )
    foresee: bool = Field(
        default=False,
        description="guidance: the slope of differentiable detectors at predicted images as well",
        json_schema_extra=HIDDEN,
    )
    robust_rounds: int = Field(default=0, ge=0, description="rounds of attack and fit")
    seed: int = Field(default=0, ge=0, description="seed of the fit", json_schema_extra=HIDDEN)

    @property
    def peak_rate(self) -> float:
        """The peak learning rate that is used."""
        return self.learning_rate or (1e-4 if self.full_weights else 2e-3)

    @property
    def adapter_rank(self) -> int | None:
        """The rank of the LoRA; None where all weights are trained."""
        return None if self.full_weights else self.rank

    def decayed(self, step: int) -> float:
        """What is left of the peak learning rate at a step: a half cosine to zero, and ``AFTER`` beyond the last."""
        last = self.max_train_steps
        return 0.5 * (1 + math.cos(math.pi * step / last)) if step < last else AFTER


class EvaluationConfig(Settings):
    """How many fresh samples are looked at after the fit; none of them was used for solving or moved a multiplier.

    ``samples`` are those of the whole law, ``concept_samples`` those of each concept's own prompts or, of detectors, of
    each group with a level: what is kept in nine of ten is shown by far fewer than what is to be rarer than one in a
    hundred. ``aim``: the solver is asked for so much of each share that is to be gone, instead of for what these
    samples call for: a fit that falls short of what it is asked for needs more room than samples do. With 0 ``samples``
    nothing is measured and nothing certified, and the solver is asked for the levels themselves.
    """

    samples: int = Field(default=2000, ge=0, description="fresh samples that measure levels; 0: none")
    concept_samples: int | None = Field(default=None, ge=1, description="of each concept or group (default: as many)")
    retained_samples: int = Field(default=720, ge=1, description="fresh samples under the retained prompts")
    integrated: int = Field(
        default=256, ge=2, description="sampler runs along which the cost is measured", json_schema_extra=HIDDEN
    )
    sequential: bool = Field(default=False, description="of detectors: stop when levels are shown")
    batch: int = Field(
        default=100, ge=1, description="samples from one look of a sequential evaluation to the next",
        json_schema_extra=HIDDEN,
    )  # fmt: skip
    other_scales: bool = Field(
        default=True, description="of detectors: half and twice the guidance scale as well", json_schema_extra=HIDDEN
    )
    confidence: float = Field(default=0.95, gt=0, lt=1, description="confidence of every bound")
    power: float = Field(
        default=0.9,
        gt=0,
        lt=1,
        description="probability with which a network at the solved level is to pass",
        json_schema_extra=HIDDEN,
    )
    aim: float | None = Field(
        default=None, gt=0, le=1, description="part of a level that is asked of the solver (default: planned)"
    )
    seed: int = Field(default=9000, ge=0, description="seed of the fresh samples", json_schema_extra=HIDDEN)

    @model_validator(mode="after")
    def _measured(self) -> Self:
        useless = [name for name in ("sequential", "concept_samples", "aim") if getattr(self, name)]
        if self.samples == 0 and useless:
            raise ValueError(f"{', '.join(useless)}: samples is 0, and nothing is measured")
        return self

    @property
    def fewest(self) -> int:
        """The fewest samples that a level is measured on."""
        return min(self.samples, self.concept_samples or self.samples)

    def counts(self, groups: Sequence[str | None]) -> tuple[int, ...]:
        """Samples of levels in these groups, None for the whole law."""
        return tuple(self.samples if group is None else self.concept_samples or self.samples for group in groups)


class AuditSettings(Settings):
    """How an audit looks for what is left: other guidance scales, and how fast the concept is learned again."""

    samples: int = Field(default=100, ge=4, description="samples of each row of the table")
    guidance_scales: tuple[float, ...] = Field(default=(3.0, 7.5), description="guidance scale besides 1; repeat")
    attacks: tuple[
        Literal[
            "all", "soft-prompt", "token-search", "concept-vector", "completion", "noise-injection", "own-classifier"
        ],
        ...,
    ] = Field(default=(), description="attacks by name, or all; repeat")
    searches: int = Field(default=1, ge=1, description="independent searches of each attack, each of them sampled")
    relearn_steps: int = Field(default=160, ge=0, description="most steps of relearning; 0: none")
    relearn_images: int = Field(default=16, ge=1, description="images that it is relearned from")
    relearn_seeds: int = Field(default=2, ge=1, description="seeds of relearning")


class RuntimeConfig(Settings):
    """Where and how a job runs. What changes a result: ``seed``, ``textual_inversion``, and in the digits that are lost
    ``dtype``.

    ``device``, ``dtype``, ``variant``, ``revision``, ``textual_inversion`` are of a model that is named and loaded; a
    pipeline that is given as an object stays as it is.
    """

    seed: int = Field(default=0, ge=0, description="seed of every sample and of training")
    cache_folder: Path | None = Field(default=None, description="what is kept between runs (default: the user's)")
    checkpointing_steps: int = Field(default=100, ge=1, description="optimizer steps from one checkpoint to the next")
    report_to: tuple[Literal["tensorboard", "wandb"], ...] = Field(default=(), description="tensorboard, wandb")
    logging_dir: Path = Field(default=Path("runs"), description="where trackers write")
    export: Literal["kohya"] | None = Field(default=None, description="kohya: a copy for ComfyUI and A1111")
    device: str | None = Field(default=None, description="torch device (default: cuda where there is one)")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="type of the weights; LoRAs train in float32"
    )
    variant: str | None = Field(default=None, description="variant of the weight files, such as fp16")
    revision: str | None = Field(default=None, description="revision of a hub model")
    textual_inversion: tuple[str, ...] = Field(
        default=(), description="safetensors FILE or TOKEN=FILE of a token; repeat"
    )
    allow_tf32: bool = Field(
        default=False, description="TF32 matrix products for float32, on GPUs that have them", json_schema_extra=HIDDEN
    )


SECTIONS: dict[str, type[Settings]] = {
    "sampling": Sampling,
    "ratios": RatiosConfig,
    "fit": FitConfig,
    "evaluation": EvaluationConfig,
    "audit": AuditSettings,
    "runtime": RuntimeConfig,
}
SEEDED = ("ratios", "fit")  # sections whose seed is the runtime's, unless one is given


class Config(Settings):
    """Everything that says how a job is done; every part has defaults.

    Parts may be given as mappings. ``runtime.seed`` is the seed of ratios and fit as well, where these have none of
    their own. ``evaluation.seed``
    stays apart: what is measured shares no noise with what was solved on.
    """

    sampling: Sampling = Field(default_factory=Sampling)
    ratios: RatiosConfig = Field(default_factory=RatiosConfig)
    fit: FitConfig = Field(default_factory=FitConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    audit: AuditSettings = Field(default_factory=AuditSettings)
    runtime: RuntimeConfig = Field(default_factory=RuntimeConfig)

    def __init__(self, **data: Any) -> None:  # wider than the fields: parts may be mappings
        super().__init__(**data)

    @model_validator(mode="before")
    @classmethod
    def _seeds(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        runtime = data.get("runtime")
        seed = runtime.seed if isinstance(runtime, RuntimeConfig) else (runtime or {}).get("seed", 0)
        filled = {name: data.get(name) or {} for name in SEEDED}
        given = {name: {"seed": seed} | some if isinstance(some, dict) else some for name, some in filled.items()}
        return data | given

    @classmethod
    def quick(cls, **given: Any) -> Self:
        """For those who look first: no certificate, under 25,000 network evaluations of a law of prompts on SD 1.5.

        20 sampler steps, 256 samples, a fit of 120 steps of 16 rows at the solved multipliers, and 0 evaluation
        samples (:mod:`diffusion.tasks.presets`). ``given``: sections as for the class itself, of which every field that
        is said goes over the preset's.
        """
        return cls(**over(QUICK, given))

    @classmethod
    def frugal(cls, **given: Any) -> Self:
        """The same fit with a certificate, within 50,000 network evaluations of a law of prompts on SD 1.5.

        At most 400 samples, counted as they come, the cost along 32 chains, and no other guidance scale. Detectors
        alone are counted as they come; for concepts by ratios give ``evaluation={"sequential": False}``.
        """
        return cls(**over(FRUGAL, given))

    @classmethod
    def for_images(cls) -> Self:
        """The defaults of forgetting given images: 600 steps of rank 16, 1,000 samples looked at."""
        return cls(
            fit=FitConfig(max_train_steps=600, rank=16),
            evaluation=EvaluationConfig(samples=1000),
        )
