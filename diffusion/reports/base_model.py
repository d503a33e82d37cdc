"""What a model card says of the model that was changed: where it comes from, its licence, and how to load it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion.pipelines import Denoiser
from diffusion.pipelines.law import origin, own_size
from diffusion.pipelines.loading import EMBEDDED
from diffusion.pipelines.textual_inversion import Token, tokens_of
from diffusion.tasks.sampling import Sampling
from diffusion.training.lora import has_loader

UNKNOWN = "BASE MODEL"


@dataclass(frozen=True)
class BaseModel:
    """``source``: what loads it, None where nobody said. ``hub``: whether that is a name on a model hub; ``embedded``:
    whether it comes with this package. ``license``: as the base model's own card says, None where that is not at hand.
    ``loads_loras``: whether its pipeline's class does; ``component``, ``network``: where its network is, its class;
    ``scheduler``, ``size``: its class, height and width, where nobody says others. ``tokens``: of textual inversion.
    ``free_text``: whether prompts may be any text; ``spoken``: one as an argument of the pipeline's call."""

    source: str | None
    hub: bool
    embedded: bool
    license: str | None
    prompts: bool
    loads_loras: bool
    component: str
    network: str
    scheduler: str
    size: tuple[int, int]
    tokens: tuple[Token, ...] = ()
    free_text: bool = True
    spoken: Callable[[str], str] = repr

    @property
    def pipeline_tag(self) -> str:
        """Of a model hub."""
        return "text-to-image" if self.prompts and self.free_text else "unconditional-image-generation"

    def snippet(self, full_weights: bool, prompt: str, sampling: Sampling) -> list[str]:
        """Python that loads the base model and what lies beside the card, and makes one image of that law.

        It runs as it is in the folder of the card. Where nobody said what the base model is, that is to be filled in.
        """
        load = f"pipeline = DiffusionPipeline.from_pretrained({self.source or UNKNOWN!r})"
        imports = ["from diffusers import DiffusionPipeline"]
        if self.source is None:
            load += "  # the folder or hub name of the model that this was made from"
        if self.embedded:
            imports = ["from diffusion.pipelines import load_pipeline"]
            load = f"pipeline = load_pipeline({self.source!r})"
        if full_weights:
            imports.insert(0, f"from diffusers import {self.network}")
            fit = f'pipeline.{self.component} = {self.network}.from_pretrained(".", subfolder="{self.component}")'
        elif self.loads_loras:
            fit = 'pipeline.load_lora_weights(".")'
        else:
            imports.append("from peft import PeftModel")
            fit = f'pipeline.{self.component} = PeftModel.from_pretrained(pipeline.{self.component}, ".")'
        asked = f"{self.spoken(prompt)}, guidance_scale={sampling.guidance_scale or 1:g}, " if self.prompts else ""
        asked += f"num_inference_steps={sampling.num_inference_steps}"
        if self.prompts and sampling.negative_prompt:
            asked += f", negative_prompt={sampling.negative_prompt!r}"
        if (sampling.height, sampling.width) not in ((None, None), self.size):
            asked += f", height={sampling.height}, width={sampling.width}"
        by = []
        if sampling.scheduler not in (None, self.scheduler):
            imports.insert(0, f"from diffusers import {sampling.scheduler}")
            by = [f"pipeline.scheduler = {sampling.scheduler}.from_config(pipeline.scheduler.config)"]
        for token in self.tokens:
            imports += [each for each in token.imports() if each not in imports]
            by += token.snippet()
        call = f"image = pipeline({asked}).images[0]"
        return [*imports, "", load, *by, fit + "  # the folder of this card", call, 'image.save("sample.png")']


def base_of(denoiser: Denoiser) -> BaseModel:
    """What is known of a pipeline's origin; nothing is asked of the network."""
    name = getattr(denoiser.pipeline, "name_or_path", None) or None
    for short, folder in EMBEDDED.items():
        if name in (short, str(folder)):
            return _base(denoiser, short, license_of(folder / "README.md"), embedded=True)
    if name is None:
        return _base(denoiser, None, None)
    if Path(name).exists():
        return _base(denoiser, name, license_of(Path(name) / "README.md"))
    from huggingface_hub import try_to_load_from_cache

    try:
        card = try_to_load_from_cache(name, "README.md")
    except ValueError:  # no name of a hub
        return _base(denoiser, name, None)
    return _base(denoiser, name, license_of(Path(card)) if isinstance(card, str) else None, hub=True)


def _base(
    denoiser: Denoiser, source: str | None, license_: str | None, hub: bool = False, embedded: bool = False
) -> BaseModel:
    network: Any = denoiser.network
    kind = type(network)
    # With adapters on it the network may be wrapped; diffusers' class is what loads it.
    while not kind.__module__.startswith("diffusers") and kind.__mro__[1] is not object:
        kind = kind.__mro__[1]
    return BaseModel(
        source=source, hub=hub, embedded=embedded, license=license_, prompts=bool(denoiser.prompt_inputs),
        loads_loras=has_loader(denoiser), component=denoiser.component, network=kind.__name__,
        scheduler=type(origin(denoiser.pipeline).scheduler).__name__, size=own_size(denoiser),
        tokens=tokens_of(denoiser.pipeline), free_text=denoiser.free_text,
        spoken=denoiser.spoken,
    )  # fmt: skip


def license_of(card: Path) -> str | None:
    """What a model card names as its licence, None where there is no card or none that can be read."""
    from huggingface_hub import ModelCard

    if not card.is_file():
        return None
    try:
        found = ModelCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.get("license")
    except Exception:  # a card can be wrong in any way, and a licence is never made up
        return None
    return found if isinstance(found, str) else None
