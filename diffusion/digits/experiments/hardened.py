r"""What robust rounds are worth: soft prompts against a LoRA and against the same one hardened, counted, with bounds.

::

    unlearn distill digits --concept "a handwritten seven" --level 1% --config digits.yaml --output out/seven
    (the same with --robust-rounds 3 --output out/robust)
    python -m diffusion.digits.experiments.hardened out/seven out/robust --config digits.yaml

    ratio <= (upper bound of the second) / (lower bound of the first),    each at 1 - (1 - confidence)/2

Several searches of either, each from its own seed and sampled equally often, as in an audit
(:mod:`diffusion.evaluation.attacks.rows`); the base model is not attacked. Bounds are Clopper and Pearson's, and those
of the ratio hold by Bonferroni. Every search is kept once it is done, so that an interrupted run goes on. A classifier
that must choose among ten digits counts broken images, too: ``both`` are images that both classifiers call the digit.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from diffusion.api import open_at_law
from diffusion.digits.prompts import DigitsClassifiers, prompts_for
from diffusion.evaluation.attacks import SoftPrompt, Victim
from diffusion.evaluation.concept_classifier import ConceptClassifier
from diffusion.evaluation.measured import CLASSIFIER
from diffusion.pipelines import Denoiser
from diffusion.pipelines.fingerprint import fingerprint
from diffusion.pipelines.fitted import put_in
from diffusion.ratios.estimate import estimate_ratios
from diffusion.runtime.cache import Cache, default_folder, kept_tensor
from diffusion.runtime.files import write_text
from diffusion.tasks.config import Config
from duality.confidence import clopper_pearson, clopper_pearson_lower

BOTH = "both"
SEED = 90_000  # of the searches; an audit's and a fit's are others


def ratio_bounds(before: tuple[int, int], after: tuple[int, int], confidence: float = 0.95) -> tuple[float, float]:
    """One-sided bounds from below and above, each at that confidence, on the ratio of two shares, after over before.

    ``before``, ``after``: hits and samples. Infinity where the first share may be zero.
    """
    each = 1 - (1 - confidence) / 2
    low, high = (
        (clopper_pearson_lower(*some, confidence=each), clopper_pearson(*some, confidence=each))
        for some in (before, after)
    )
    return quotient(high[0], low[1]), quotient(high[1], low[0])


def quotient(value: float, by: float) -> float:
    """Their ratio; infinity over zero."""
    return float(value) / float(by) if by > 0 else float("inf")


def verdict(before: tuple[int, int], after: tuple[int, int], wanted: float, confidence: float = 0.95) -> str:
    """Whether the ratio is at most ``wanted``: shown, refuted, or neither."""
    low, high = ratio_bounds(before, after, confidence)
    return "shown" if high <= wanted else "refuted" if low > wanted else "neither shown nor refuted"


def hits_of(said: dict[str, np.ndarray]) -> dict[str, int]:
    """Counts by classifier, above one half, and of images that all classifiers of images call the concept."""
    yes = {name: value > 0.5 for name, value in said.items()}
    every = np.all([value for name, value in yes.items() if name != CLASSIFIER], 0)
    return {**{name: int(value.sum()) for name, value in yes.items()}, BOTH: int(every.sum())}


def attacked(victim: Victim, classifier: ConceptClassifier, attack: SoftPrompt, cache: Cache | None) -> dict[str, int]:
    """Counts in the samples of one search, which is taken from the cache where it is done."""
    request = {"fit": fingerprint(victim.denoiser.pipeline), "attack": repr(attack), "scale": victim.scale}
    request |= {"seed": victim.seed, "samples": victim.samples, "concept": victim.prompts[0]}
    latents = kept_tensor(cache, "hardened", request, lambda: attack.run(victim).latents)
    return hits_of(classifier.said(latents))


def opened(folder: Path, config: Config) -> Denoiser:
    """The pipeline with a result's LoRA in its weights."""
    denoiser, _ = open_at_law("digits", config, of_ratios=True)
    put_in(denoiser, folder)
    return denoiser


def lines(found: dict[str, dict[str, int]], samples: int, wanted: float) -> list[str]:
    """A line for each folder, and one for each classifier on the ratio of the last to the first."""
    out = []
    for name, hits in found.items():
        told = (f"{by} {k} of {samples}, at most {100 * clopper_pearson(k, samples):.1f} %" for by, k in hits.items())
        out.append(f"{name}: {'; '.join(told)}")
    first, last = next(iter(found.values())), list(found.values())[-1]
    for by, k in first.items():
        pair = (k, samples), (last[by], samples)
        low, high = ratio_bounds(*pair)
        value = quotient(last[by], k)
        out.append(
            f"ratio by {by}: {value:.2f}, {low:.2f} to {high:.2f}; at most {wanted:.2f}: {verdict(*pair, wanted)}"
        )
    return out


def main(words: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", help="results, the one that others are compared with first")
    parser.add_argument("--concept", default="a handwritten seven")
    parser.add_argument("--config", type=Path, help="of the fit: its estimate is taken from the cache")
    parser.add_argument("--searches", type=int, default=4)
    parser.add_argument("--samples", type=int, default=50, help="of each search")
    parser.add_argument("--scale", type=float, default=3.0, help="guidance scale")
    parser.add_argument("--wanted", type=float, default=1 / 3, help="ratio that is asked about")
    parser.add_argument("--output", type=Path, help="the counts, as .json")
    given = parser.parse_args(words)
    config = Config.from_yaml(given.config) if given.config else Config()
    base, config = open_at_law("digits", config, of_ratios=True)
    prompts, law = prompts_for([given.concept]), config.sampling
    cache = Cache(config.runtime.cache_folder or default_folder(), fingerprint(base.pipeline))
    estimate = estimate_ratios(base, prompts, config.ratios, law, cache)
    classifier = ConceptClassifier(base, estimate, DigitsClassifiers(), 0)
    labels, found = estimate.labels, dict[str, dict[str, int]]()
    for folder in given.folders:
        make = partial(
            Victim, opened(folder, config), classifier.shows, prompts.concepts[0].prompts, prompts.anchor,
            estimate.labelled[labels == 0], estimate.labelled[labels == 1], law.steps(base), given.scale, given.samples,
        )  # fmt: skip
        hits: dict[str, int] = {}
        for number in range(given.searches):
            for by, count in attacked(make(seed=SEED + 10_007 * number), classifier, SoftPrompt(), cache).items():
                hits[by] = hits.get(by, 0) + count
            print(f"{folder}, {number + 1} of {given.searches} searches: {hits}", flush=True)
        found[str(folder)] = hits
    text = lines(found, given.searches * given.samples, given.wanted)
    print("\n".join(text))
    if given.output is not None:
        write_text(given.output, json.dumps({"samples": given.searches * given.samples, "hits": found}, indent=1))


if __name__ == "__main__":
    main()
