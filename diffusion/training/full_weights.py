r"""All weights of a network instead of adapters: a frozen copy is the base model, and the outcome is a whole network.

::

    f = the network as it stands,     T = the same network with the weights theta_0 that it had at the start.

The copy is swapped in and out by pointer, so whoever holds the network sees the base model while it is in. It costs the
network's size in memory once more (the optimiser's two moments and the averages cost three times that).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from diffusion.pipelines import Denoiser

# The values that are out: the base model's while the student is in, and the other way round.
_OUT: WeakKeyDictionary[nn.Module, list[Tensor]] = WeakKeyDictionary()
_TEACHER_IN: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def is_free(network: nn.Module) -> bool:
    """Whether :func:`free_weights` has been called on this network."""
    return network in _OUT


def free_weights(denoiser: Denoiser) -> list[nn.Parameter]:
    """All parameters of the network, ready to be trained from the base model's values, which are kept.

    Raises ``ValueError`` where the network carries adapters: fuse or unload them first.
    """
    network = denoiser.network
    if getattr(network, "peft_config", None):
        raise ValueError(f"{denoiser.component} carries adapters: fuse or unload them before all weights are trained")
    put_back(denoiser)
    parameters = list(network.requires_grad_(True).parameters())
    _OUT[network] = [parameter.detach().clone() for parameter in parameters]
    _TEACHER_IN[network] = False
    return parameters


def put_back(denoiser: Denoiser) -> None:
    """The network's weights as they were before :func:`free_weights`; nothing where it has not been called."""
    network = denoiser.network
    if is_free(network):
        switch_weights(network, base_model=True)
        del _OUT[network], _TEACHER_IN[network]


def accept(denoiser: Denoiser) -> None:
    """The trained weights are the network's own from now on; nothing where :func:`free_weights` was not called."""
    network = denoiser.network
    if is_free(network):
        switch_weights(network, base_model=False)
        del _OUT[network], _TEACHER_IN[network]


def switch_weights(network: nn.Module, base_model: bool) -> None:
    """Put the base model's or the student's weights in."""
    if _TEACHER_IN[network] != base_model:
        out = _OUT[network]
        for index, parameter in enumerate(network.parameters()):
            parameter.data, out[index] = out[index], parameter.data
        _TEACHER_IN[network] = base_model


def save_network(denoiser: Denoiser, folder: Path) -> None:
    """``folder/unet`` (or ``transformer``) by ``save_pretrained``: config and safetensors, for ``from_pretrained``."""
    with torch.no_grad():
        cast(Any, denoiser.network).save_pretrained(folder / denoiser.component, safe_serialization=True)
