"""What a student that forgot images has gained, cost and done to others, in nats, under noise it was not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from diffusion.methods.images.unseen import elbo_drop
from diffusion.methods.likelihood import divergence, loss
from diffusion.pipelines import Denoiser
from diffusion.tasks.image_set import Images

ELBO_DROP = "surprise gained (mean, standard error)"  # one for each image; the other two are means over images
COST = "cost of the network in nats (mean, standard error)"
HELD_OUT = "surprise gained at held-out images (mean, standard error)"
MOST = 256  # rows that the cost and held-out surprise are measured at


def in_nats(
    denoiser: Denoiser,
    images: Images,
    held_out: Tensor,
    held_out_prompts: Sequence[str],
    *,
    seed: int,
    noise_levels: int,
    repeats: int,
) -> dict[str, Any]:
    """``ELBO_DROP`` at each image, ``COST`` at data that are no copies, and ``HELD_OUT`` where there is any (k, ...).

    The student's adapters are on; errors are of the noise for ``ELBO_DROP``, and of the images for the other two.
    """
    own, errors = elbo_drop(denoiser, images, noise_levels, repeats, seed)
    rows = (~images.aside).nonzero()[:, 0]
    rows = rows[:: -(-len(rows) // MOST)]
    condition = denoiser.condition([images.data_prompts[int(j)] for j in rows])
    levels = max(1, noise_levels // 2)
    moved = divergence(denoiser, images.data[rows], condition, levels=levels, seed=seed)
    found: dict[str, Any] = {ELBO_DROP: list(zip(own.tolist(), errors.tolist(), strict=True))}
    found[COST] = _mean(moved)
    if len(held_out):
        condition = denoiser.condition(list(held_out_prompts[:MOST]))
        found[HELD_OUT] = _mean(loss(denoiser, held_out[:MOST], condition, levels=levels, seed=seed))
    return found


def _mean(values: Tensor) -> tuple[float, float]:
    error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else float("nan")
    return float(values.mean()), error
