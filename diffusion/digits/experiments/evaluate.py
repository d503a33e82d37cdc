"""How good is the ``digits`` pipeline? ``python -m diffusion.digits.experiments.evaluate [FOLDER]`` prints and saves
it.

Agreement of both classifiers with every paraphrase at guidance 1, class frequencies of unconditional samples, energy
distance of unconditional samples to held-out real digits (in 8x8 pixels), and distance to the nearest training image
(copying).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from diffusion.digits.classifiers import classifiers
from diffusion.digits.data import ANCHORS, PARAPHRASES, enlarge, load_digits, paraphrases, shrink
from diffusion.digits.quality import ClassifierQuality, DigitsQuality, NearestImage, ParaphraseAgreement
from diffusion.evaluation.metrics import frequency
from diffusion.pipelines import load_pipeline
from diffusion.pipelines.latents import decode
from diffusion.pipelines.law import call_defaults
from diffusion.pipelines.sampling import sample_latents
from diffusion.runtime.documents import Estimate
from diffusion.runtime.files import write_text
from duality.two_sample import energy_distance


def evaluate(pipeline: Any, per_prompt: int, unconditional: int, seed: int, steps: int | None = None) -> DigitsQuality:
    steps = int(call_defaults(pipeline)["num_inference_steps"]) if steps is None else steps
    held_out, train = load_digits("held-out"), load_digits("train")
    # Real images as the pipeline was shown them: enlarged, then read by the classifiers' 4x4 means like any other
    # image.
    real_held_out, real_train = shrink(enlarge(held_out.images)), shrink(enlarge(train.images))
    prompts = [prompt for digit in range(10) for prompt in paraphrases(digit) for _ in range(per_prompt)]
    truth = np.repeat(np.arange(10), len(PARAPHRASES) * per_prompt)
    paraphrase = np.tile(np.repeat(np.arange(len(PARAPHRASES)), per_prompt), 10)
    with tqdm(total=len(prompts) + unconditional + 500, desc="samples") as bar:
        shown = shrink(decode(pipeline, sample_latents(pipeline, prompts, seed=seed, steps=steps, progress=bar.update)))
        free = shrink(
            decode(
                pipeline,
                sample_latents(pipeline, [""] * unconditional, seed=seed + 1, steps=steps, progress=bar.update),
            )
        )
        anchors = [ANCHORS[j % len(ANCHORS)] for j in range(500)]
        anchored = shrink(
            decode(pipeline, sample_latents(pipeline, anchors, seed=seed + 2, steps=steps, progress=bar.update))
        )
    nearest = [np.linalg.norm((real_train - image).reshape(len(train), -1), axis=1).min() for image in free[:500]]
    real = [np.linalg.norm((real_train - image).reshape(len(train), -1), axis=1).min() for image in real_held_out]
    return DigitsQuality(
        sampler_steps=steps,
        samples_per_prompt=per_prompt,
        unconditional_samples=unconditional,
        energy_distance_to_held_out=energy_distance(free, real_held_out),
        training_images_energy_distance_to_held_out=energy_distance(real_train, real_held_out),
        nearest_training_image=NearestImage(samples=float(np.median(nearest)), held_out=float(np.median(real))),
        classifiers=tuple(
            ClassifierQuality(
                by=classifier.name,
                accuracy_on_held_out=_share(classifier(held_out.images) == held_out.labels),
                agreement_by_paraphrase=tuple(
                    ParaphraseAgreement(paraphrase=text, share=_share(right[paraphrase == j]))
                    for j, text in enumerate(PARAPHRASES)
                ),
                agreement_by_digit=tuple(_share(right[truth == digit]) for digit in range(10)),
                unconditional_shares=(np.bincount(classifier(free), minlength=10) / unconditional).tolist(),
                anchor_shares=(np.bincount(classifier(anchored), minlength=10) / len(anchors)).tolist(),
            )
            for classifier in classifiers()
            for right in [classifier(shown) == truth]
        ),
    )


def _share(hits: Any) -> Estimate:
    return frequency(hits).estimate


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="digits")
    parser.add_argument("--per-prompt", type=int, default=50)
    parser.add_argument("--unconditional", type=int, default=4000)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    pipeline = load_pipeline(arguments.model)
    result = evaluate(pipeline, arguments.per_prompt, arguments.unconditional, arguments.seed, arguments.steps)
    text = result.to_json()
    print(text, end="")
    if arguments.output:
        write_text(arguments.output, text)


if __name__ == "__main__":
    main()
