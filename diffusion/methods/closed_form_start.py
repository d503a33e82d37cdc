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
from diffusion.pipelines import Denoiser
from diffusion.runtime.files import say
from diffusion.tasks.concepts import normalised
from diffusion.tasks.prompts import Prompts
from diffusion.training.lora import ADAPTER

LAYERS = ("attn2.to_k", "attn2.to_v")
FOLDS = 4
STRANGERS = 256  # prompts that no law names
CHUNK = 64  # prompts whose vectors are held in double precision at a time


def change_for(denoiser: Denoiser, prompts: Prompts) -> Change | None:
    """Of a law of prompts; None, too, where no prompt takes another one's law, or cross-attention does not hear them.

    Half of what prompts that keep their law weigh is given to :func:`strangers`, which nobody asked for either. Prompts
    are dealt to the folds in turn, in an order that is drawn once for all, those that move and those that do not each
    by themselves.
    """
    layers, probability = cross_attention(denoiser), torch.from_numpy(prompts.probabilities)
    moved = torch.tensor([normalised(each.prompt) != normalised(each.sampled) for each in prompts.prompts])
    if not layers or not bool((moved & (probability > 0)).any()):
        return None
    others = strangers(denoiser, prompts)
    texts, sampled = (*prompts.texts, *others), (*prompts.sampled, *others)
    weights = probability
    if others:
        each = 0.5 * (float(probability[~moved].sum()) or 1.0) / len(others)
        weights = torch.where(moved, 1.0, 0.5) * probability
        weights = torch.cat([weights, weights.new_full((len(others),), each)])
    moved = torch.cat([moved, torch.zeros(len(others), dtype=torch.bool)])
    fold = torch.empty(len(texts), dtype=torch.long)
    for kind in (moved, ~moved):
        order = np.random.default_rng(0).permutation(int(kind.sum()))
        fold[kind] = torch.from_numpy(order % FOLDS)
    folds = []
    for k in range(FOLDS):
        parts = []
        for some in torch.nonzero(fold == k).flatten().split(CHUNK):
            if not len(some):  # fewer prompts than folds
                continue
            e, to = (_vectors(denoiser, words, some) for words in (texts, sampled))
            parts.append(sums_of(e, to, weights[some], moved[some]))
        if parts:
            folds.append(sum(parts[1:], parts[0]))
    matrices = [base_weight(layer).cpu().double() for layer in layers]
    return change_of(folds, sum((v.T @ v for v in matrices[1:]), matrices[0].T @ matrices[0]))


def strangers(denoiser: Denoiser, prompts: Prompts) -> tuple[str, ...]:
    """Words of the tokenizer in any order, :data:`STRANGERS` times at most, as long as prompts of the law.

    They stand for all prompts that a law does not name and that are to stay: without them a change does anything under
    words that the law has not. Words that asking prompts have and their anchors have not are left out.
    """
    tokenizer = getattr(denoiser.pipeline, "tokenizer", None)
    if tokenizer is None:
        return ()

    def words(text: str) -> list[str]:
        return [_word(token) for token in tokenizer.tokenize(text)]

    gone = {word for each in prompts.prompts for word in set(words(each.prompt)) - set(words(each.sampled))}
    every = sorted({_word(token) for token in tokenizer.get_vocab()} - gone)
    every = [word for word in every if word.isascii() and word.isalnum()]
    if not every:
        return ()
    lengths, rng = [max(1, len(words(text))) for text in prompts.texts], np.random.default_rng(0)
    drawn = (" ".join(rng.choice(every, size=int(rng.choice(lengths)))) for _ in range(STRANGERS))
    return tuple(dict.fromkeys(text for text in drawn if text not in prompts.texts))


def _word(token: str) -> str:
    """A token of a vocabulary without the marks of its beginning or end."""
    return token.removesuffix("</w>").lstrip("\u2581\u0120")


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


def _vectors(denoiser: Denoiser, texts: tuple[str, ...], chosen: Tensor) -> Tensor:
    return denoiser.condition([texts[int(j)] for j in chosen])["encoder_hidden_states"]
