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
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from diffusion.digits.data import ANCHORS, enlarge, load_digits, paraphrases
from diffusion.digits.experiments import components
from diffusion.runtime.seeds import seeded_weights

BATCH, VAE_BATCH = 48, 16
EMPTY_SHARE, ANCHOR_SHARE = 0.35, 0.06
EMA_DECAY = 0.999


class Run:
    """One resumable training stage: modules, their moving averages, the optimiser and the place in the schedule."""

    def __init__(self, folder: Path, modules: dict[str, nn.Module], steps: int, peak_rate: float, seed: int) -> None:
        self.folder, self.modules, self.steps, self.peak_rate, self.seed = folder, modules, steps, peak_rate, seed
        self.parameters = {
            f"{name}.{key}": value for name, module in modules.items() for key, value in module.named_parameters()
        }
        self.average = {key: value.detach().clone() for key, value in self.parameters.items()}
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=peak_rate, weight_decay=1e-4)
        self.done = 0
        self.losses: list[float] = []
        self._resume()

    def generator(self, step: int) -> torch.Generator:
        # A generator per step makes the samples of step k the same whether or not the run was interrupted before it.
        return torch.Generator().manual_seed(self.seed * 1_000_003 + step)

    def remaining(self) -> Iterator[int]:
        for step in tqdm(range(self.done, self.steps), initial=self.done, total=self.steps, desc=self.folder.name):
            yield step
            if self.done % 500 == 0 or self.done == self.steps:
                self.save()

    def rate(self, step: int) -> float:
        """Warmed up over 200 steps, then along a cosine to zero."""
        return self.peak_rate * min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def update(self, loss: Tensor) -> None:
        """One AdamW step at :meth:`rate`, then the moving average."""
        step = self.done
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        self.optimizer.step()
        decay = min(EMA_DECAY, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1 - decay)
        self.losses.append(float(loss.detach()))
        self.done += 1

    def use_average(self) -> None:
        with torch.no_grad():
            for key, value in self.parameters.items():
                value.copy_(self.average[key])

    def save(self) -> None:
        tensors = {f"model.{key}": value.detach() for key, value in self.parameters.items()}
        tensors |= {f"average.{key}": value for key, value in self.average.items()}
        for key, value in self.parameters.items():
            state = self.optimizer.state[value]
            tensors |= {f"exp_avg.{key}": state["exp_avg"], f"exp_avg_sq.{key}": state["exp_avg_sq"]}
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / "state.tmp"
        save_file(
            {key: value.contiguous() for key, value in tensors.items()},
            temporary,
            metadata={"done": str(self.done), "losses": json.dumps([round(x, 5) for x in self.losses])},
        )
        os.replace(temporary, self.folder / "state.safetensors")  # a kill leaves the old checkpoint, never half a one

    def _resume(self) -> None:
        path = self.folder / "state.safetensors"
        if not path.exists():
            return
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        tensors = load_file(path)
        self.done, self.losses = int(metadata["done"]), json.loads(metadata["losses"])
        with torch.no_grad():
            for key, value in self.parameters.items():
                value.copy_(tensors[f"model.{key}"])
                self.average[key].copy_(tensors[f"average.{key}"])
                self.optimizer.state[value] = {
                    "step": torch.tensor(float(self.done)),
                    "exp_avg": tensors[f"exp_avg.{key}"],
                    "exp_avg_sq": tensors[f"exp_avg_sq.{key}"],
                }


def train_vae(work: Path, steps: int, seed: int) -> components.AutoencoderKL:
    """Minimise `mean |x - decode(z)|^2 + 1e-3 KL(z)` (per element), z drawn from the encoder's posterior."""
    with seeded_weights(seed):
        vae = components.build_vae()
    run = Run(work / "vae", {"vae": vae}, steps, 2e-3, seed)
    images = torch.from_numpy(enlarge(load_digits("train").images))
    for step in run.remaining():
        generator = run.generator(step)
        batch = images[torch.randint(len(images), (VAE_BATCH,), generator=generator)]
        posterior = vae.encode(batch).latent_dist
        decoded = vae.decode(posterior.sample(generator)).sample
        loss = (batch - decoded).square().mean() + 1e-3 * posterior.kl().mean() / posterior.mean[0].numel()
        run.update(loss)
    run.use_average()
    with torch.no_grad():
        vae.eval()
        posterior = vae.encode(images).latent_dist
        vae.register_to_config(scaling_factor=float(1 / posterior.sample(run.generator(-1)).std()))
    return vae


def train_unet(
    work: Path, vae: components.AutoencoderKL, steps: int, seed: int
) -> tuple[components.CLIPTextModel, components.CLIPTokenizer, components.UNet2DConditionModel]:
    """Minimise `E |v - v_theta(z_t, t, prompt)|^2` over latents of real digits and all their paraphrases."""
    tokenizer = components.build_tokenizer()
    with seeded_weights(seed + 1):
        text_encoder, unet = components.build_text_encoder(tokenizer), components.build_unet()
    run = Run(work / "unet", {"unet": unet, "text_encoder": text_encoder}, steps, 1.2e-3, seed + 1)
    digits = load_digits("train")
    labels = torch.from_numpy(digits.labels)
    with torch.no_grad():
        posterior = vae.encode(torch.from_numpy(enlarge(digits.images))).latent_dist
    alpha_bar = components.build_scheduler().alphas_cumprod
    prompts = ["", *ANCHORS] + [prompt for digit in range(10) for prompt in paraphrases(digit)]
    per_digit = len(paraphrases(0))
    tokens = tokenizer(prompts, padding="max_length", return_tensors="pt").input_ids
    unet.train(), text_encoder.train()
    for step in run.remaining():
        generator = run.generator(step)
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
        run.update((unet(noisy, t, embedded).sample - velocity).square().mean())
    run.use_average()
    return text_encoder, tokenizer, unet


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/digits"), help="checkpoints; resumed where they exist")
    parser.add_argument("--output", type=Path, required=True, help="folder for the finished pipeline")
    parser.add_argument("--vae-steps", type=int, default=1500)
    parser.add_argument("--unet-steps", type=int, default=9000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.time()
    vae = train_vae(arguments.work, arguments.vae_steps, arguments.seed)
    text_encoder, tokenizer, unet = train_unet(arguments.work, vae, arguments.unet_steps, arguments.seed)
    pipeline = components.assemble(vae, text_encoder, tokenizer, unet)
    pipeline.to(dtype=torch.float16).save_pretrained(arguments.output, safe_serialization=True)
    losses = {
        stage: float(np.mean(json.loads(_metadata(arguments.work / stage)["losses"])[-500:]))
        for stage in ("vae", "unet")
    }
    print(json.dumps({"seconds this time": round(time.time() - started), "mean loss of the last 500 steps": losses}))


def _metadata(folder: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(folder / "state.safetensors", "pt") as file:
        return dict(file.metadata())


if __name__ == "__main__":
    main()
