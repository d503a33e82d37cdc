"""Train the ``digits`` pipeline from nothing: ``python -m diffusion.digits.experiments.train --work runs/digits
--output OUT``.

Two stages, each seeded, each resumed from its last checkpoint when the command is given again:

1. the VAE: pixel error plus a small KL term, so that the latents stay smooth and of unit scale;
2. UNet and text encoder together: v-prediction, the empty prompt in a good third of the samples, because the
   unconditional law is what an unlearning problem is stated on and has to be learned as well as the conditional one.

Checkpoints are safetensors and JSON; no pickle is read or written.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from diffusion.digits.data import ANCHORS, enlarge, load_digits, paraphrases
from diffusion.digits.experiments import components
from diffusion.digits.experiments.pretraining import Pretraining
from diffusion.digits.quality import DigitsTraining
from diffusion.runtime.distributed import WHOLE, Part
from diffusion.runtime.seeds import seeded_weights

BATCH, VAE_BATCH = 48, 16
EMPTY_SHARE, ANCHOR_SHARE = 0.35, 0.06


def train_vae(work: Path, steps: int, seed: int) -> tuple[components.AutoencoderKL, list[float]]:
    """Minimise `mean |x - decode(z)|^2 + 1e-3 KL(z)` (per element), z drawn from the encoder's posterior."""
    with seeded_weights(seed):
        vae = components.build_vae()
    images = torch.from_numpy(enlarge(load_digits("train").images))

    def loss(_step: int, generator: torch.Generator, _part: Part = WHOLE) -> Tensor:
        batch = images[torch.randint(len(images), (VAE_BATCH,), generator=generator)]
        posterior = vae.encode(batch).latent_dist
        decoded = vae.decode(posterior.sample(generator)).sample
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return (batch - decoded).square().mean() + 1e-3 * kl

    run = Pretraining(work / "vae", {"vae": vae}, loss, steps, 2e-3, seed)
    losses = run.complete()
    with torch.no_grad():
        posterior = vae.encode(images).latent_dist
        vae.register_to_config(scaling_factor=float(1 / posterior.sample(run.generator(-1)).std()))
    return vae, losses


def train_unet(
    work: Path, vae: components.AutoencoderKL, steps: int, seed: int
) -> tuple[components.CLIPTextModel, components.CLIPTokenizer, components.UNet2DConditionModel, list[float]]:
    """Minimise `E |v - v_theta(z_t, t, prompt)|^2` over latents of real digits and all their paraphrases."""
    tokenizer = components.build_tokenizer()
    with seeded_weights(seed + 1):
        text_encoder, unet = components.build_text_encoder(tokenizer), components.build_unet()
    digits = load_digits("train")
    labels = torch.from_numpy(digits.labels)
    with torch.no_grad():
        posterior = vae.encode(torch.from_numpy(enlarge(digits.images))).latent_dist
    alpha_bar = components.build_scheduler().alphas_cumprod
    prompts = ["", *ANCHORS] + [prompt for digit in range(10) for prompt in paraphrases(digit)]
    per_digit = len(paraphrases(0))
    tokens = tokenizer(prompts, padding="max_length", return_tensors="pt").input_ids

    def loss(_step: int, generator: torch.Generator, _part: Part = WHOLE) -> Tensor:
        chosen = torch.randint(len(labels), (BATCH,), generator=generator)
        noise = torch.randn(posterior.mean[chosen].shape, generator=generator)
        latents = (posterior.mean[chosen] + posterior.std[chosen] * noise) * vae.config.scaling_factor
        prompt = 1 + len(ANCHORS) + labels[chosen] * per_digit
        prompt = prompt + torch.randint(per_digit, (BATCH,), generator=generator)
        share = torch.rand(BATCH, generator=generator)
        anchor = 1 + torch.randint(len(ANCHORS), (BATCH,), generator=generator)
        prompt = torch.where(share < EMPTY_SHARE + ANCHOR_SHARE, anchor, prompt)
        prompt = torch.where(share < EMPTY_SHARE, 0, prompt)
        # One stratified sample of t per image: the same law as independent samples and less variance.
        t = (torch.rand(1, generator=generator) + torch.arange(BATCH) / BATCH) % 1
        t = (t[torch.randperm(BATCH, generator=generator)] * len(alpha_bar)).long()
        a = alpha_bar[t].view(-1, 1, 1, 1)
        noise = torch.randn(latents.shape, generator=generator)
        noisy, velocity = a.sqrt() * latents + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * latents
        distinct, place = prompt.unique(return_inverse=True)
        embedded = text_encoder(tokens[distinct])[0][place]
        return cast(Tensor, (unet(noisy, t, embedded).sample - velocity).square().mean())

    modules = {"unet": unet, "text_encoder": text_encoder}
    losses = Pretraining(work / "unet", modules, loss, steps, 1.2e-3, seed + 1).complete()
    return text_encoder, tokenizer, unet, losses


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/digits"), help="checkpoints; resumed where they exist")
    parser.add_argument("--output", type=Path, required=True, help="folder for the finished pipeline")
    parser.add_argument("--vae-steps", type=int, default=1500)
    parser.add_argument("--unet-steps", type=int, default=9000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.time()
    vae, vae_losses = train_vae(arguments.work, arguments.vae_steps, arguments.seed)
    text_encoder, tokenizer, unet, unet_losses = train_unet(arguments.work, vae, arguments.unet_steps, arguments.seed)
    pipeline = components.assemble(vae, text_encoder, tokenizer, unet)
    pipeline.to(dtype=torch.float16).save_pretrained(arguments.output, safe_serialization=True)
    trained = DigitsTraining(
        seconds=round(time.time() - started),
        vae_loss=float(np.mean(vae_losses[-500:])),
        unet_loss=float(np.mean(unet_losses[-500:])),
    )
    print(trained.to_json(), end="")


if __name__ == "__main__":
    main()
