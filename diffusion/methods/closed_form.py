r"""Where a fit under a law of prompts begins: each prompt takes the law of its anchor, as far as words can say it.

::

    min over M of  sum_c P(c) |(I + M) e_c - e_a(c)|^2 + held sum_k P(k) |M e_k|^2 + ridge |M|_F^2,
    I + M = ( sum_c P(c) e_a(c) e_c' + held sum_k P(k) e_k e_k' + ridge I ) G^{-1},
    G     =   sum_c P(c) e_c e_c'    + held sum_k P(k) e_k e_k' + ridge I,

e (d,): what the text encoder says at each place of a prompt; c: prompts that are asked for with another one's law, a(c)
their anchors, k: prompts that keep their own; P: the law. A layer V of keys or values in cross-attention becomes
V (I + M). Where the first two sums vanish, and prompts speak through these layers alone, the network says under c what
it said under a(c), at every state and level of noise, and under k what it said: nothing of it has to be learned from
samples, and no noise of a fit is multiplied by the sampler's scale.

Least squares on a few prompts may be wrong on all others, so ``held`` and ``ridge`` are chosen, and the whole of it is
believed, by prompts that are left out (cross-validation, in the norm of all keys and values): see :func:`change_of`.
Only the text encoder is asked. Adapters hold the part of V M of their rank that is nearest in the norm of G (Eckart and
Young). Text that reaches a network by other ways as well (the pooled vector of SDXL) is left as it is, and networks
that mix text and image in one attention begin where they are.

Source: theory, "Prompts in closed form"; the least squares are those of Unified Concept Editing
(:mod:`diffusion.methods.erasure.uce`), with the law's weights and one M for all layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from diffusion.pipelines import Denoiser
from diffusion.runtime.files import say
from diffusion.tasks.concepts import normalised
from diffusion.tasks.prompts import Prompts
from diffusion.training.lora import ADAPTER

LAYERS = ("attn2.to_k", "attn2.to_v")
FOLDS = 4
CHUNK = 64  # prompts whose vectors are held in double precision at a time
HELD = (10.0, 100.0, 1000.0)
RIDGES = (1e-5, 1e-4, 1e-3)  # of the mean square of an entry of e

# An error under a prompt that is to keep its law counts so much more than what is left to do under one that is not: the
# fit that follows learns the latter, and never sees the prompts that the former speaks for.
CAUTION = 100.0
# What may be left of the way, errors under left-out prompts included. On the wardrobe a style is at 0.02, an object
# among its neighbours at 0.6, and there unseen prompts paid for it.
BELIEVED = 0.2


@dataclass(frozen=True)
class Sums:
    """Second moments (d, d), by the law's weights: of e under prompts c, of e_a(c) with e, of e_a(c), and under k."""

    asked: Tensor
    across: Tensor
    anchors: Tensor
    kept: Tensor

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def left(self, m: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
        """``sum P |(I + M) e - e_a|^2`` and ``sum P |M e|^2`` in the norm ``norm`` (d, d)."""
        all_of_it = m + torch.eye(len(m), dtype=m.dtype)
        cross = all_of_it @ self.across.T
        asked = all_of_it @ self.asked @ all_of_it.T - cross - cross.T + self.anchors
        return (norm * asked).sum(), (norm * (m @ self.kept @ m.T)).sum()


@dataclass(frozen=True)
class Change:
    """``V -> V (I + M)``. ``m`` (d, d); ``root``, ``inverse`` (d, d): of G, its square root and that one's inverse.

    ``left``: what left-out prompts say is left of the way, and :data:`CAUTION` times what it did to the others.
    """

    m: Tensor
    root: Tensor
    inverse: Tensor
    left: float

    def factors(self, v: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        """(out, rank), (rank, d), whose product is of all of that rank the nearest to ``v M`` (out, d) in G's norm."""
        u, s, vt = torch.linalg.svd(v.to(self.m) @ self.m @ self.root, full_matrices=False)
        count = min(rank, len(s))
        left, right = u.new_zeros(len(v), rank), u.new_zeros(rank, len(self.m))
        left[:, :count] = u[:, :count] * s[:count].sqrt()
        right[:count] = s[:count, None].sqrt() * vt[:count] @ self.inverse
        return left, right


def sums_of(e: Tensor, anchors: Tensor, weights: Tensor, moved: Tensor) -> Sums:
    """Of vectors ``e`` of prompts and of their ``anchors`` (n, places, d), weights (n,), and who is ``moved`` (n,)."""
    rows, to = (value.detach().cpu().double().flatten(0, 1) for value in (e, anchors))
    shares = (weights.double() / e.shape[1]).repeat_interleave(e.shape[1])[:, None]
    by = moved.repeat_interleave(e.shape[1])[:, None]
    mine, rest = shares * by, shares * ~by
    return Sums((rows * mine).T @ rows, (to * mine).T @ rows, (to * mine).T @ to, (rows * rest).T @ rows)


def solved(sums: Sums, held: float, ridge: float) -> tuple[Tensor, Tensor]:
    """M and G, (d, d) each. ``ValueError`` unless held is at least 0 and ridge above 0."""
    if not (held >= 0 and ridge > 0):
        raise ValueError(f"held must be at least 0 and ridge above 0, got {held}, {ridge}")
    gram = sums.asked + held * sums.kept
    gram = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(gram, (sums.across - sums.asked).T).T, gram


def change_of(folds: list[Sums], norm: Tensor) -> Change | None:
    """The minimiser for all prompts, at the ``held`` and ``ridge`` of the tables above that left-out prompts like best.

    ``folds``: sums of disjoint parts of the prompts; of M from all parts but one, that one tells ``sum P |(I+M) e -
    e_a|^2 + CAUTION sum P |M e|^2``, in units of its value ``sum P |e - e_a|^2`` where nothing is done. None where no
    choice is below :data:`BELIEVED`, or there is no way to go.
    """
    total = sum(folds[1:], folds[0])
    whole = float(total.left(torch.zeros_like(norm), norm)[0])
    if not whole > 0:
        return None
    found = []
    for held in HELD:
        for ridge in RIDGES:
            value = 0.0
            for k, one in enumerate(folds):
                others = [some for j, some in enumerate(folds) if j != k]
                asked, kept = one.left(solved(sum(others[1:], others[0]), held, ridge)[0], norm)
                value += float(asked + CAUTION * kept) / whole
            found.append((value, held, ridge))
    left, held, ridge = min(found)
    if not left < BELIEVED:
        return None
    m, gram = solved(total, held, ridge)
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(values[-1] * len(values) * torch.finfo(torch.float64).eps)
    root, inverse = (vectors * values.pow(power) @ vectors.T for power in (0.5, -0.5))
    return Change(m, root, inverse, left)


def change_for(denoiser: Denoiser, prompts: Prompts) -> Change | None:
    """Of a law of prompts; None, too, where no prompt takes another one's law, or cross-attention does not hear them.

    Prompts are dealt to the folds in turn, in an order that is drawn once for all, those that move and those that do
    not each by themselves.
    """
    layers, probability = cross_attention(denoiser), torch.from_numpy(prompts.probabilities)
    moved = torch.tensor([normalised(each.prompt) != normalised(each.sampled) for each in prompts.prompts])
    if not layers or not bool((moved & (probability > 0)).any()):
        return None
    fold = torch.empty(len(prompts), dtype=torch.long)
    for kind in (moved, ~moved):
        order = np.random.default_rng(0).permutation(int(kind.sum()))
        fold[kind] = torch.from_numpy(order % FOLDS)
    folds = []
    for k in range(FOLDS):
        parts = []
        for some in torch.nonzero(fold == k).flatten().split(CHUNK):
            if not len(some):  # fewer prompts than folds
                continue
            e, to = (_vectors(denoiser, texts, some) for texts in (prompts.texts, prompts.sampled))
            parts.append(sums_of(e, to, probability[some], moved[some]))
        if parts:
            folds.append(sum(parts[1:], parts[0]))
    if len(folds) < 2:
        return None
    weights = [base_weight(layer).double().cpu() for layer in layers]
    return change_of(folds, sum((v.T @ v for v in weights[1:]), weights[0].T @ weights[0]))


def start_at_anchors(denoiser: Denoiser, prompts: Prompts) -> bool:
    """Put the change into the student that is on the network and stands at the base model; whether there was any."""
    change = change_for(denoiser, prompts)
    if change is None:
        return False
    found = False
    with torch.no_grad():
        for layer in cross_attention(denoiser):
            v = base_weight(layer).cpu()
            if ADAPTER in getattr(layer, "lora_A", {}):
                a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
                left, right = change.factors(v, len(a))
                b.copy_(left / layer.scaling[ADAPTER])
                a.copy_(right)
            elif not hasattr(layer, "get_base_layer") and layer.weight.requires_grad:
                layer.weight.add_((v.double() @ change.m).to(layer.weight))
            else:
                continue
            found = True
    if found:
        rest = f"{100 * change.left:.1f} % of the way is left, by prompts that were left out and with what others pay"
        say(f"prompts begin at their anchors, in closed form: {rest}")
    return found


def base_weight(layer: Any) -> Tensor:
    """(out, d), under an adapter or not."""
    return cast(Tensor, (layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer).weight).detach()


def cross_attention(denoiser: Denoiser) -> list[Any]:
    """Layers that are given the text encoder's vectors as they are."""
    network = cast(Any, denoiser.network)
    width = getattr(network.config, "cross_attention_dim", None)
    if "encoder_hidden_states" not in denoiser.prompt_inputs or denoiser.component != "unet":
        return []
    if getattr(network, "encoder_hid_proj", None) is not None or not isinstance(width, int):
        return []
    found = [module for name, module in network.named_modules() if name.endswith(LAYERS)]
    return [layer for layer in found if getattr(layer, "in_features", None) == width]


def _vectors(denoiser: Denoiser, texts: tuple[str, ...], chosen: Tensor) -> Tensor:
    return denoiser.condition([texts[int(j)] for j in chosen])["encoder_hidden_states"]
