r"""Adapters ``W + (alpha/r) B A`` on a pipeline's network: put on, switched off, saved for stock libraries to load.

Pipelines that load adapters themselves get ``pytorch_lora_weights.safetensors`` for ``pipeline.load_lora_weights``;
those that do not (DDPM, DDIM) get ``adapter_model.safetensors`` with ``adapter_config.json`` for
``peft.PeftModel.from_pretrained(pipeline.unet, folder)``. Both carry the alpha. Where all weights are trained instead
(:mod:`diffusion.training.full_weights`) the same functions switch between student and base model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from diffusion.pipelines import Denoiser
from diffusion.pipelines.adapters import carried
from diffusion.runtime.precision import is_half
from diffusion.runtime.seeds import seeded_weights
from diffusion.training.full_weights import accept, free_weights, is_free, put_back, save_network, switch_weights

ADAPTER = "unlearned"


def add_student(
    denoiser: Denoiser, rank: int | None, seed: int, targets: Sequence[str] | None = None
) -> list[torch.nn.Parameter]:
    """The parameters to be trained: fresh adapters of that rank, or (rank None) all weights of the network.

    ``targets`` narrows either to the layers whose names end in one of them.
    """
    if rank is not None:
        return add_lora(denoiser, rank, seed, targets)
    if is_half(denoiser.network):
        raise ValueError(
            f"full_weights: all weights are trained in float32, and the {denoiser.component} is in "
            f"{str(cast(Any, denoiser.network).dtype).removeprefix('torch.')}: load it in float32, "
            "with mixed_precision bf16"
        )
    remove_lora(denoiser)
    parameters = free_weights(denoiser)
    if targets is None:
        return parameters
    denoiser.network.requires_grad_(False)
    for name, module in denoiser.network.named_modules():
        if name.endswith(tuple(targets)):
            module.requires_grad_(True)
    return [parameter for parameter in parameters if parameter.requires_grad]


def add_lora(
    denoiser: Denoiser, rank: int, seed: int, targets: Sequence[str] | None = None
) -> list[torch.nn.Parameter]:
    """Fresh adapters on the layers whose names end in one of ``targets``; returns their parameters.

    ``targets``: by default the family's own (``denoiser.lora_targets``). The student starts equal to the base model (B
    = 0). Raises ``ValueError`` where the network carries adapters of others: what the base model is would depend on
    them.
    """
    from peft import LoraConfig, inject_adapter_in_model

    network = cast(Any, denoiser.network)
    check_adapters(denoiser)
    undo(denoiser)
    network.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets or denoiser.lora_targets))
    with seeded_weights(seed):  # peft's initialisation takes no generator
        if hasattr(network, "add_adapter"):
            network.add_adapter(config, ADAPTER)
        else:
            inject_adapter_in_model(config, network, ADAPTER)
    # Optimiser steps are smaller than half precision resolves: there adapters and their average are float32.
    for parameter in network.parameters():
        if parameter.requires_grad and parameter.dtype.itemsize < 4:
            parameter.data = parameter.data.float()
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def check_adapters(denoiser: Denoiser) -> None:
    """``ValueError`` where a component of the pipeline carries adapters of others, a text encoder included."""
    for component, names in carried(denoiser.pipeline).items():
        others = sorted(set(names) - {ADAPTER} if component == denoiser.component else names)
        if others:
            raise ValueError(f"{component} carries the adapters {others}: fuse or unload them first")


def check_as_given(denoiser: Denoiser) -> None:
    """``ValueError`` where the pipeline carries adapters, or weights of an earlier fit: which law it samples, and from
    which one a new fit would start, would be two things."""
    check_adapters(denoiser)
    if is_free(denoiser.network) or carried(denoiser.pipeline):
        raise ValueError(
            f"the pipeline's {denoiser.component} carries what an earlier unlearning has fitted: diffusion.merge("
            "pipeline) makes it part of the model, to build on it, and diffusion.undo(pipeline) takes it off"
        )


def remove_lora(denoiser: Denoiser) -> None:
    """Take this project's adapters off the network, where it carries them; its layers are those that it had before."""
    network = cast(Any, denoiser.network)
    if ADAPTER not in getattr(network, "peft_config", {}):
        return
    for layer in _layers(network):
        layer.delete_adapter(ADAPTER)
    del network.peft_config[ADAPTER]
    if network.peft_config:
        return
    del network.peft_config
    if hasattr(network, "_hf_peft_config_loaded"):
        network._hf_peft_config_loaded = False
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if layer in _layers(parent):
                setattr(parent, name, cast(Any, layer).get_base_layer())


def undo(denoiser: Denoiser) -> None:
    """The network as it was before the last fit into adapters or all weights; nothing where there was none."""
    remove_lora(denoiser)
    put_back(denoiser)


def merge(denoiser: Denoiser) -> None:
    """``W + (alpha/r) B A`` in the place of W for good, or the trained weights: what was fitted is the model now."""
    with torch.no_grad():
        for layer in _layers(denoiser.network):
            weight = layer.get_base_layer().weight
            if ADAPTER in layer.active_adapters:
                delta = layer.get_delta_weight(ADAPTER)
                weight.data = (weight.data.to(delta.dtype) + delta).to(weight.dtype)  # rounded once
    remove_lora(denoiser)
    accept(denoiser)


Run = TypeVar("Run", bound=Callable[..., Any])


def left_as_given(run: Run) -> Run:
    """Where ``run(denoiser, ...)`` fails or is interrupted, its pipeline is left as it was given, for the next run."""

    @wraps(run)
    def guarded(denoiser: Denoiser, *arguments: Any, **named: Any) -> Any:
        ours = not is_free(denoiser.network) and not carried(denoiser.pipeline)
        try:
            return run(denoiser, *arguments, **named)
        except BaseException:
            if ours:
                undo(denoiser)
            raise

    return cast(Run, guarded)


def switch_lora(denoiser: Denoiser, on: bool) -> None:
    """The student (on) or the base model (off): all adapters on or off, or the one or the other set of weights."""
    if is_free(denoiser.network):
        switch_weights(denoiser.network, base_model=not on)
        return
    for layer in _layers(denoiser.network):
        layer.enable_adapters(enabled=on)


def _layers(network: Any) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in network.modules() if isinstance(module, BaseTunerLayer)]


class base_model:
    """The network as it was before the fit, without gradient: its adapters off, or its old weights in."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser

    def __enter__(self) -> None:
        self._no_grad = torch.no_grad()
        self._no_grad.__enter__()
        switch_lora(self.denoiser, False)

    def __exit__(self, *error: Any) -> None:
        switch_lora(self.denoiser, True)
        self._no_grad.__exit__(*error)


@contextmanager
def merged_adapters(denoiser: Denoiser) -> Iterator[None]:
    """The student, for samples: ``W + (alpha/r) B A`` in the place of W, which saves its products in every call.

    Same outputs up to rounding; nothing is merged on a network in half precision, where the sum would be rounded to
    far less than the adapters hold, and another network would be looked at than is delivered. Afterwards every weight
    is the very tensor that it was before; in between there is no base model.
    """
    apart = is_free(denoiser.network) or is_half(denoiser.network)
    layers = [] if apart else _layers(denoiser.network)
    kept = [(layer, layer.get_base_layer().weight, layer.get_base_layer().weight.data) for layer in layers]
    try:
        with torch.no_grad():
            for layer, weight, value in kept:
                for name in layer.active_adapters:
                    weight.data = weight.data + layer.get_delta_weight(name).to(value.dtype)
                layer.enable_adapters(enabled=False)
        yield
    finally:
        for layer, weight, value in kept:
            weight.data = value
            layer.enable_adapters(enabled=True)


def has_loader(denoiser: Denoiser) -> bool:
    """Whether the pipeline's class saves and loads LoRAs itself; pipelines without prompts do not."""
    return hasattr(type(denoiser.pipeline), "save_lora_weights")


def save_student(denoiser: Denoiser, folder: Path) -> None:
    """Write what was trained into ``folder``: adapters, or the whole network where all weights were."""
    if is_free(denoiser.network):
        save_network(denoiser, folder)
    else:
        save_lora(denoiser, folder)


def _in_order(settings: dict[str, Any]) -> dict[str, Any]:
    """Sets as sorted lists: in their own order, which each process chooses anew, one fit would have many texts."""
    return {name: sorted(value) if isinstance(value, set) else value for name, value in settings.items()}


def save_lora(denoiser: Denoiser, folder: Path) -> None:
    """Write the adapters into ``folder``, in the form that stock libraries load for this pipeline (see the module)."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    network, kind = cast(Any, denoiser.network), type(denoiser.pipeline)
    config = network.peft_config[ADAPTER]
    state = get_peft_model_state_dict(network, adapter_name=ADAPTER)
    if has_loader(denoiser):
        layers = {
            f"{denoiser.component}_lora_layers": state,
            f"{denoiser.component}_lora_adapter_metadata": _in_order(config.to_dict()),
        }
        kind.save_lora_weights(folder, **layers, safe_serialization=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    ordered = copy.copy(config)
    vars(ordered).update(_in_order(vars(config)))
    ordered.save_pretrained(folder)
    tensors = {f"base_model.model.{name}": value.detach().contiguous().cpu() for name, value in state.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
