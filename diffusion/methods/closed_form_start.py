r"""The change that takes prompts to their anchors (:mod:`diffusion.methods.closed_form`), put where a fit begins.

Only the text encoder is asked. Adapters hold the part of the change of their rank that is nearest where prompts are.
Text that reaches a network by other ways as well (the pooled vector of SDXL) is left as it is, and networks that mix
text and image in one attention begin at the base model.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from diffusion.methods.closed_form import BELIEVED, Change, change_of, sums_of
from diffusion.methods.versions import KEPT, MOVED, Version, others, versions
from diffusion.pipelines import Denoiser
from diffusion.runtime.files import say
from diffusion.tasks.prompts import Prompt, Prompts
from diffusion.training.lora import ADAPTER

LAYERS = ("attn2.to_k", "attn2.to_v")
FOLDS = 4
CHUNK = 64  # prompts whose vectors are held in double precision at a time


def change_for(denoiser: Denoiser, prompts: Prompts) -> Change | None:
    """Of a law of prompts; None, too, where no prompt takes another one's law, or cross-attention does not hear them.

    Prompts that move and prompts that do not each give a part of their weight to their versions
    (:mod:`diffusion.methods.versions`); of a law in which all prompts move words alone are kept. Whether other words in
    the concept's place are among what is kept is left to the left-out prompts: that with less left is taken.
    """
    if not cross_attention(denoiser) or not bool((prompts.moved & (prompts.probabilities > 0)).any()):
        return None
    further = others(denoiser, prompts)
    found = [_with_kept(denoiser, prompts, some) for some in ([further, []] if further else [[]])]
    return min((each for each in found if each is not None), key=lambda each: each.left, default=None)


def _with_kept(denoiser: Denoiser, prompts: Prompts, kept: list[Version]) -> Change | None:
    """With ``kept`` among the versions of what stays. All are dealt to the folds in turn, in an order that is drawn
    once for all, what moves and what does not each by itself."""
    layers, probability = cross_attention(denoiser), torch.from_numpy(prompts.probabilities)
    moved = torch.from_numpy(prompts.moved)
    pairs, weights, kinds = list(zip(prompts.texts, prompts.sampled, strict=True)), probability, moved
    for which in (True, False):
        law, some, mass = prompts, (moved == which).numpy(), float(probability[moved == which].sum())
        if not mass:  # a law that keeps nothing: words alone are kept
            law = Prompts([*(each for each in prompts.prompts if each.prompt.strip()), Prompt(prompt="")])
            some, mass = np.arange(len(law)) == len(law) - 1, 1.0
        further = versions(denoiser, law, some)
        if not which:
            further += kept
        if further:
            share = MOVED if which else KEPT
            rest = torch.where(kinds == which, 1 - share, 1.0) * weights
            weights = torch.cat([rest, rest.new_full((len(further),), share * mass / len(further))])
            kinds = torch.cat([kinds, torch.full((len(further),), which)])
            pairs += [(each.prompt, each.sampled) for each in further]
    fold = torch.empty(len(pairs), dtype=torch.long)
    for kind in (kinds, ~kinds):
        order = np.random.default_rng(0).permutation(int(kind.sum()))
        fold[kind] = torch.from_numpy(order % FOLDS)
    folds = []
    for k in range(FOLDS):
        parts = []
        for some in torch.nonzero(fold == k).flatten().split(CHUNK):
            if not len(some):  # fewer prompts than folds
                continue
            e, to = (_vectors(denoiser, [pairs[int(j)][side] for j in some]) for side in (0, 1))
            parts.append(sums_of(e, to, weights[some], kinds[some]))
        if parts:
            folds.append(sum(parts[1:], parts[0]))
    matrices = [base_weight(layer).cpu().double() for layer in layers]
    return change_of(folds, sum((v.T @ v for v in matrices[1:]), matrices[0].T @ matrices[0]))


def start_at_anchors(denoiser: Denoiser, prompts: Prompts) -> bool:
    """Put the change into the student that is on the network and stands at the base model; whether that was done.

    It is not where left-out prompts speak against it, and either is said.
    """
    change, layers = change_for(denoiser, prompts), [each for each in cross_attention(denoiser) if _trained(each)]
    if change is None or not layers:
        return False
    where = "their anchors, in closed form" if change.believed else "the base model"
    rest = f"{100 * change.left:.1f} % of the way is left in closed form, by prompts that were left out and with what"
    say(f"prompts begin at {where}: {rest} others pay, and {100 * BELIEVED:.0f} % may be")
    if not change.believed:
        return False
    with torch.no_grad():
        for layer in layers:
            v = base_weight(layer).cpu()
            if hasattr(layer, "get_base_layer"):
                a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
                left, right = change.factors(v, len(a))
                b.copy_(left / layer.scaling[ADAPTER])
                a.copy_(right)
            else:
                layer.weight.add_((v.double() @ change.m).to(layer.weight))
    return True


def begin(denoiser: Denoiser, prompts: Prompts, other_layers: float) -> list[float] | None:
    """:func:`start_at_anchors`, and the rates of the student's parameters: where it was done those of all layers but
    keys and values of cross-attention are ``other_layers``. None where all are alike.

    What words say is changed already, and whatever other layers learn for some prompts all others hear as well.
    """
    if not start_at_anchors(denoiser, prompts) or other_layers == 1:
        return None
    heard = {id(p) for layer in cross_attention(denoiser) for p in layer.parameters()}
    trained = [p for p in cast(Any, denoiser.network).parameters() if p.requires_grad]
    return [1.0 if id(p) in heard else other_layers for p in trained]


def _trained(layer: Any) -> bool:
    """Whether the student may change it, by an adapter or its weights."""
    if hasattr(layer, "get_base_layer"):
        return ADAPTER in layer.lora_A
    return bool(layer.weight.requires_grad)


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


def _vectors(denoiser: Denoiser, texts: list[str]) -> Tensor:
    return denoiser.condition(texts)["encoder_hidden_states"]
