"""Settings for those who look first, and for a certificate within a budget: network evaluations of SD 1.5, counted.

::

    fit  =  samples + features of the noised detector + training              ≤ 25,000
    all  =  fit + images to look at, or evaluation samples and cost           ≤ 25,000 (quick), 50,000 (frugal)

for a law of prompts under classifier-free guidance, at 20 steps of the sampler (PNDM asks 21 times, twice each under
guidance); :func:`diffusion.workflows.dry_run.stages_detected` counts them. Multipliers stay as solved: a round of
corrections on as few samples as these tells nothing of a level of a per cent. What was given goes over what is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusion.tasks.settings import Settings

Sections = dict[str, dict[str, Any]]

FIT: Sections = {
    "sampling": {"num_inference_steps": 20},
    "ratios": {
        "num_samples": 256,
        "concept_samples": 120,
        "retained_samples": 160,
        "noisings": 6,
        "classifier_steps": 200,
        "elbo_samples": 30,
        "elbo_noise_levels": 10,
    },
    "fit": {"max_train_steps": 120, "train_batch_size": 16, "fixed_multipliers": True},
}
QUICK: Sections = FIT | {"evaluation": {"samples": 0}}
FRUGAL: Sections = FIT | {
    "evaluation": {"samples": 400, "sequential": True, "integrated": 32, "other_scales": False},
}


def over(preset: Sections, given: Mapping[str, Any]) -> dict[str, Any]:
    """Sections of ``preset`` with what is ``given`` for them: mappings, or settings, of which those that were said."""
    found: dict[str, Any] = {name: dict(values) for name, values in preset.items()}
    for name, some in given.items():
        said = {field: getattr(some, field) for field in some.model_fields_set} if isinstance(some, Settings) else some
        found[name] = found.get(name, {}) | dict(said)
    return found
