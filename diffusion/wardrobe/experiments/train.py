"""Train the ``wardrobe`` pipeline: ``python -m diffusion.wardrobe.experiments.train --output OUT``.

Three stages, each seeded, the first and the last resumed from their last checkpoint when the command is given again:

1. the VAE: absolute and squared pixel error plus a small KL term;
2. latents of a fixed sample of renderings, cut once for all;
3. UNet and text encoder together: v-prediction under captions in all templates, the empty one in 15 % of the draws.

Rates are constant and fall to zero over the last steps, so a run may be lengthened or ended early by giving another
number of steps before the fall begins, and is then the run that it would have been with that number from the start.
Forward passes run in bfloat16, weights and optimiser in float32. Checkpoints are safetensors and JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextModel

from diffusion.digits.experiments.components import assemble, build_scheduler, build_text_encoder
from diffusion.digits.experiments.pretraining import Pretraining
from diffusion.runtime.distributed import WHOLE, Part
from diffusion.runtime.seeds import seeded_weights
from diffusion.training.trainer import Objective
from diffusion.wardrobe.captions import TEMPLATES, Cell, caption
from diffusion.wardrobe.experiments import components
from diffusion.wardrobe.photographs import OBJECTS, Photographs, load_photographs
from diffusion.wardrobe.quality import Training
from diffusion.wardrobe.rendering import BACKGROUNDS, STYLES, render

VAE_BATCH, BATCH = 16, 32
VAE_FALL, FALL = 600, 1200
EMPTY_SHARE = 0.15
ANY_OBJECT_SHARE, ANY_STYLE_SHARE = 0.06, 0.04
RENDERINGS = 64_000


class Stage(Pretraining):
    """A training stage at a constant rate that falls linearly to zero over the last ``fall`` steps; keeps a log."""

    def __init__(
        self,
        folder: Path,
        modules: dict[str, nn.Module],
        objective: Objective,
        steps: int,
        peak_rate: float,
        seed: int,
        fall: int,
    ) -> None:
        self.fall, self.started = fall, time.time()
        super().__init__(folder, modules, objective, steps, peak_rate, seed)
        self.begun = self.done
        if self.done > steps:
            raise ValueError(f"steps must be at least the {self.done} already done in {folder}, got {steps}")

    def rate(self, step: int) -> float:
        left = self.settings.max_train_steps - step
        return self.settings.peak_rate * min(1.0, (step + 1) / self.warmup, left / self.fall)

    @property
    def loss(self) -> float:
        """Mean over the last 500 steps."""
        return float(np.mean(self.losses[-500:]))

    def write(self, path: Path) -> None:
        super().write(path)
        figures = {
            "step": self.done,
            "mean_loss_of_last_500_steps": round(self.loss, 5),
            "seconds_per_step": round((time.time() - self.started) / max(1, self.done - self.begun), 4),
        }
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")


def _half() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def renderings(data: Photographs, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (count, 3, 32, 32), objects, styles and backgrounds uniform; and the numbers of these, (count, 3)."""
    chosen = torch.randint(len(data), (count,), generator=generator).numpy()
    styles = torch.randint(len(STYLES), (count,), generator=generator).numpy()
    backgrounds = torch.randint(len(BACKGROUNDS), (count,), generator=generator).numpy()
    images = render(data.images[chosen], styles, backgrounds)
    said = np.stack([data.objects[chosen], styles, backgrounds], axis=1)
    return torch.from_numpy(images), torch.from_numpy(said)


def train_vae(work: Path, data: Photographs, steps: int, seed: int) -> tuple[components.AutoencoderKL, float]:
    """Minimise `mean |e| + mean e^2 + 5e-4 KL` (per latent element), e = x - decode(z), z drawn from the posterior.

    Returns the VAE and its loss.
    """
    with seeded_weights(seed):
        vae = components.build_vae()

    def loss(_step: int, generator: torch.Generator, _part: Part = WHOLE) -> Tensor:
        images, _ = renderings(data, VAE_BATCH, generator)
        with _half():
            posterior = vae.encode(images).latent_dist
            decoded = vae.decode(posterior.sample(generator)).sample
        error = images - decoded.float()
        kl = posterior.kl().float().mean() / posterior.mean[0].numel()
        return error.abs().mean() + error.square().mean() + 5e-4 * kl

    run = Stage(work / "vae", {"vae": vae}, loss, steps, 1.5e-3, seed, VAE_FALL)
    run.complete()
    with torch.no_grad():
        sample = vae.encode(renderings(data, 512, run.generator(-1))[0]).latent_dist.sample(run.generator(-2))
    vae.register_to_config(scaling_factor=float(1 / sample.std()))
    return vae, run.loss


def encode_latents(work: Path, data: Photographs, vae: components.AutoencoderKL, seed: int) -> dict[str, Tensor]:
    """Posterior ``mean`` and ``std`` (n, 8, 8, 8), half precision, of a fixed sample of renderings; ``said`` (n, 3)."""
    path = work / "latents.safetensors"
    if not path.exists():
        generator = torch.Generator().manual_seed(seed * 1_000_003 - 1)
        parts: dict[str, list[Tensor]] = {"mean": [], "std": [], "said": []}
        for _ in range(RENDERINGS // 500):
            images, said = renderings(data, 500, generator)
            with torch.no_grad(), _half():
                posterior = vae.encode(images).latent_dist
            for key, value in (("mean", posterior.mean.half()), ("std", posterior.std.half()), ("said", said)):
                parts[key].append(value)
        save_file({key: torch.cat(values) for key, values in parts.items()}, work / "latents.tmp")
        os.replace(work / "latents.tmp", path)
    return load_file(path)


def caption_table() -> tuple[list[str], Tensor]:
    """All captions, the empty one first, and where they are: (9, 7, 3, templates), the last of 9 and 7 being any."""
    shape = (len(OBJECTS) + 1, len(STYLES) + 1, len(BACKGROUNDS), len(TEMPLATES))
    texts, place = [""], torch.zeros(shape, dtype=torch.long)
    for o, s, b, template in np.ndindex(shape):
        cell = Cell(o if o < len(OBJECTS) else None, s if s < len(STYLES) else None, b)
        place[o, s, b, template] = len(texts)
        texts.append(caption(cell, template))
    return texts, place


def choose_captions(said: Tensor, place: Tensor, generator: torch.Generator) -> Tensor:
    """One caption for each of ``said`` (n, 3): a random template; some are less particular, some are empty."""
    n = len(said)
    share = torch.rand(3, n, generator=generator)
    objects = torch.where(share[0] < ANY_OBJECT_SHARE, len(OBJECTS), said[:, 0])
    styles = torch.where(share[1] < ANY_STYLE_SHARE, len(STYLES), said[:, 1])
    template = torch.randint(len(TEMPLATES), (n,), generator=generator)
    return torch.where(share[2] < EMPTY_SHARE, 0, place[objects, styles, said[:, 2], template])


def train_unet(
    work: Path, latents: dict[str, Tensor], scale: float, steps: int, seed: int
) -> tuple[CLIPTextModel, components.CLIPTokenizer, components.UNet2DConditionModel, float]:
    """Minimise `E |v - v_theta(z_t, t, caption)|^2` over latents of renderings and their captions.

    Returns text encoder, tokenizer, UNet and the loss.
    """
    tokenizer = components.build_tokenizer()
    with seeded_weights(seed + 1):
        text_encoder, unet = build_text_encoder(tokenizer), components.build_unet()
    texts, place = caption_table()
    tokens = tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
    alpha_bar = build_scheduler().alphas_cumprod

    def loss(_step: int, generator: torch.Generator, _part: Part = WHOLE) -> Tensor:
        rows = torch.randint(len(latents["said"]), (BATCH,), generator=generator)
        mean, std = latents["mean"][rows].float(), latents["std"][rows].float()
        z = (mean + std * torch.randn(mean.shape, generator=generator)) * scale
        chosen = choose_captions(latents["said"][rows], place, generator)
        # One stratified draw of t per image: the same law as independent draws and less variance.
        t = (torch.rand(1, generator=generator) + torch.arange(BATCH) / BATCH) % 1
        t = (t[torch.randperm(BATCH, generator=generator)] * len(alpha_bar)).long()
        a = alpha_bar[t].view(-1, 1, 1, 1)
        noise = torch.randn(z.shape, generator=generator)
        noisy, velocity = a.sqrt() * z + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * z
        distinct, back = chosen.unique(return_inverse=True)
        with _half():
            predicted = unet(noisy, t, text_encoder(tokens[distinct])[0][back]).sample
        return cast(Tensor, (predicted.float() - velocity).square().mean())

    run = Stage(work / "unet", {"unet": unet, "text_encoder": text_encoder}, loss, steps, 1e-3, seed + 1, FALL)
    run.complete()
    return text_encoder, tokenizer, unet, run.loss


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/wardrobe"), help="checkpoints; resumed if they exist")
    parser.add_argument("--data", type=Path, help="folder with Fashion-MNIST's IDX files")
    parser.add_argument("--output", type=Path, required=True, help="folder for the finished pipeline")
    parser.add_argument("--vae-steps", type=int, default=3000)
    parser.add_argument("--unet-steps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = load_photographs("train", arguments.data)
    vae, vae_loss = train_vae(arguments.work, data, arguments.vae_steps, arguments.seed)
    latents = encode_latents(arguments.work, data, vae, arguments.seed)
    text_encoder, tokenizer, unet, unet_loss = train_unet(
        arguments.work, latents, vae.config.scaling_factor, arguments.unet_steps, arguments.seed
    )
    assemble(vae, text_encoder, tokenizer, unet).to(dtype=torch.float16).save_pretrained(
        arguments.output, safe_serialization=True
    )
    training = Training(
        seed=arguments.seed,
        vae_steps=arguments.vae_steps,
        vae_loss=vae_loss,
        unet_steps=arguments.unet_steps,
        unet_loss=unet_loss,
    )
    (arguments.work / "training.json").write_text(training.model_dump_json(indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
