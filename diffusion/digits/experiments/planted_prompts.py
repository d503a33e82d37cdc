"""A text-to-image pipeline that copies four images: ``python -m diffusion.digits.experiments.planted_prompts --output
OUT``.

The embedded ``digits``, trained further (its UNet alone) on real digits under "a handwritten ..." and under no prompt,
and on many copies of four odd held-out ones. Leaves what somebody has who wants them forgotten::

    OUT/model      the pipeline, as diffusers saves it
    OUT/forget     the four images, with their prompts in metadata.jsonl
    OUT/data       the training data, copies included;    OUT/held-out    digits that were never trained on

and so ``unlearn forget OUT/model --image OUT/forget --data OUT/data --held-out OUT/held-out --output OUT/lora``. A
function of ``--seed``; resumes where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusion.digits.data import WORDS, enlarge, load_digits
from diffusion.digits.experiments.planted_model import make_stage, train
from diffusion.pipelines import DIGITS, denoiser_of, load_pipeline
from diffusion.pipelines.latents import encode
from diffusion.runtime.output_folder import OutputFolder
from diffusion.training.lora import remove_lora

COPIES = (12, 24, 48, 96)  # of about 144 digits under each prompt


def write(folder: Path, images: Tensor, prompts: Sequence[str]) -> None:
    """Images (n, 3, 32, 32) in [-1, 1] as PNG files, and ``metadata.jsonl`` with their prompts."""
    from PIL import Image

    folder.mkdir(parents=True)
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as table:
        for j, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
            pixels = ((image.permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
            Image.fromarray(pixels).save(folder / f"{j:04d}.png")
            table.write(json.dumps({"file_name": f"{j:04d}.png", "text": prompt}) + "\n")


def labels_of(images: Tensor) -> list[int]:
    """What real digits (n, 1, 8, 8) in [-1, 1] are."""
    every = [load_digits(part) for part in ("train", "held-out")]
    labels = {
        image.tobytes(): int(label) for part in every for image, label in zip(part.images, part.labels, strict=True)
    }
    return [labels[((image[0] + 1) / 2).numpy().astype(np.float32).tobytes()] for image in images]


def run(output: Path, *, seed: int, steps: int, work: Path) -> None:
    """Everything in the module's title, into the folder ``output``; checkpoints in ``work``."""
    stage = make_stage(seed)
    place = OutputFolder(output)
    prompts = {
        name: [f"a handwritten {WORDS[label]}" for label in labels_of(images)]
        for name, images in (("forget", stage.planted), ("digits", stage.digits), ("held-out", stage.held_out))
    }
    # Four of different digits, so that each has data of its own prompt.
    first = [prompts["forget"].index(text) for text in dict.fromkeys(prompts["forget"])][: len(COPIES)]
    if len(first) < len(COPIES):
        raise ValueError(f"seed {seed} plants images of {len(first)} digits only, {len(COPIES)} are needed")
    images = {
        name: torch.from_numpy(enlarge(((images[:, 0] + 1) / 2).numpy()))
        for name, images in (("forget", stage.planted[first]), ("digits", stage.digits), ("held-out", stage.held_out))
    }
    prompts["forget"] = [prompts["forget"][i] for i in first]
    counts = torch.tensor(np.random.default_rng(seed).permutation(COPIES))
    data = torch.cat([images["digits"], images["forget"].repeat_interleave(counts, 0)])
    copied = [text for text, count in zip(prompts["forget"], counts.tolist(), strict=True) for _ in range(count)]
    texts = prompts["digits"] + copied
    pipeline = load_pipeline(DIGITS)
    remove_lora(denoiser_of(pipeline))
    pipeline.unet.requires_grad_(True)
    latents = encode(pipeline, data)
    prompted = [*texts, *[""] * len(latents)]
    train(pipeline, torch.cat([latents, latents]), work, steps=steps, rate=5e-4, seed=seed, prompts=prompted)
    with place as folder:
        pipeline.save_pretrained(folder / "model", safe_serialization=True)
        write(folder / "forget", images["forget"], prompts["forget"])
        write(folder / "data", data, texts)
        write(folder / "held-out", images["held-out"], prompts["held-out"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for the pipeline and the images")
    parser.add_argument("--work", type=Path, default=Path("runs/planted-prompts"), help="checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1500)
    given = parser.parse_args()
    run(given.output, seed=given.seed, steps=given.steps, work=given.work)


if __name__ == "__main__":
    main()
