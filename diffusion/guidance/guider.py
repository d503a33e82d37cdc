"""Guidance of a solution as a ``diffusers`` guider: what a stock modular pipeline takes, saves and loads.

::

    pipeline.update_components(guider=DualityGuidance.of(denoiser, estimate, solution, guidance_scale=5.0))

Each of the guider's passes through the network, with the prompt and without, is corrected as
:class:`diffusion.guidance.guided.Guided` corrects it; then they are mixed as by ``ClassifierFreeGuidance``. The guider
carries all that it needs as tensors: embeddings of the prompts that ask for a concept, of their names and of the
anchor, the ratio classifier, the noise levels; and the solution. So it works where text encoders have been unloaded;
what is asked it knows by embeddings alone, and exchanges them in the branch with the prompt, not in that of the
negative one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.guiders import ClassifierFreeGuidance
from safetensors.torch import load_file, save_file
from torch import Tensor

import duality as du
from diffusion.guidance.guided import Guided
from diffusion.pipelines.base import Condition, Denoiser
from diffusion.pipelines.schedules import Noising
from diffusion.pipelines.stable_diffusion_3 import StableDiffusion3
from diffusion.pipelines.stable_diffusion_xl import StableDiffusionXL
from diffusion.ratios.classifier import RatioClassifier
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.runtime.files import write_text

#: Families whose modular pipelines of diffusers have a guider.
FAMILIES: dict[str, Any] = {"StableDiffusionXL": StableDiffusionXL, "StableDiffusion3": StableDiffusion3}
TENSORS, SOLUTION = "guider.safetensors", "solution.json"


@dataclass(frozen=True)
class Carried:
    """What a guider carries besides its settings: tensors by name, and the solution."""

    tensors: dict[str, Tensor]
    solution: du.Solution


class DualityGuidance(ClassifierFreeGuidance):  # type: ignore[misc]  # diffusers is untyped
    """``f_0 + s (f_c - f_0)``, s = ``guidance_scale``, of answers that are corrected by a solution's guidance.

    Made by :meth:`of`, or by ``from_pretrained`` of a folder that ``save_pretrained`` has written. ``family``: of
    :data:`FAMILIES`; ``concepts``: prompts that ask for each, the first its name. Stock pipelines enable their guider
    anew in every call: to switch it off give them another one. Raises ``ValueError`` where it is used before it carries
    anything.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        guidance_scale: float = 1.0,
        guidance_rescale: float = 0.0,
        use_original_formulation: bool = False,
        start: float = 0.0,
        stop: float = 1.0,
        enabled: bool = True,
        family: str = "StableDiffusionXL",
        settings: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(guidance_scale, guidance_rescale, use_original_formulation, start, stop, enabled)
        if family not in FAMILIES:
            raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
        self.family, self.settings = family, settings or {}
        self.carried: Carried | None = None
        self._guided: Guided | None = None

    @classmethod
    def of(
        cls, denoiser: Denoiser, estimate: RatioEstimate, solution: du.Solution, guidance_scale: float = 1.0
    ) -> DualityGuidance:
        """The guider of a solution on ratios. ``ValueError`` for a family without one, or concepts without prompts."""
        family, prompts = type(denoiser).__name__, estimate.prompts
        if family not in FAMILIES:
            raise ValueError(f"denoiser: diffusers has modular pipelines for {', '.join(FAMILIES)}, got {family}")
        if not all(concept.prompts for concept in prompts.concepts):
            raise ValueError("concepts must be given by prompts: a guider keeps their embeddings")
        texts = list(dict.fromkeys(["", prompts.anchor, *(t for c in prompts.concepts for t in c.prompts)]))
        made = denoiser.condition(texts)
        state = {f"classifier.{name}": value for name, value in estimate.classifier.state_dict().items()}
        words = {f"words.{name}": made[name] for name in denoiser.prompt_inputs}
        noising: Noising = denoiser.noising_of(denoiser.pipeline.scheduler)
        levels = {f"levels.{name}": getattr(noising, name) for name in ("signal", "noise", "timesteps")}
        guider = cls(
            guidance_scale=guidance_scale,
            family=family,
            settings={
                "texts": texts,
                "concepts": [list(concept.prompts) for concept in prompts.concepts],
                "anchor": prompts.anchor,
                "prediction_type": noising.prediction_type,
            },
        )
        tensors = {name: value.detach().cpu().contiguous() for name, value in {**state, **words, **levels}.items()}
        guider.carried = Carried(tensors, solution)
        return guider

    def new(self, **kwargs: Any) -> DualityGuidance:
        """A copy with other settings, which carries the same."""
        made: DualityGuidance = super().new(**kwargs)
        made.carried = self.carried
        return made

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Settings, tensors and the solution, in one folder."""
        carried = self._all()
        super().save_pretrained(save_directory, push_to_hub=False)
        save_file(carried.tensors, Path(save_directory) / TENSORS)
        write_text(Path(save_directory) / SOLUTION, carried.solution.to_json())
        if push_to_hub:
            raise ValueError("push_to_hub: upload the folder that was written, it holds all that is needed")

    @classmethod
    def from_pretrained(cls, folder: Any, subfolder: str | None = None, **kwargs: Any) -> DualityGuidance:
        """From a folder that :meth:`save_pretrained` has written. ``ValueError`` where one of its files is missing."""
        place = Path(folder) / (subfolder or "")
        missing = [name for name in (cls.config_name, TENSORS, SOLUTION) if not (place / name).is_file()]
        if missing:
            raise ValueError(f"folder {str(place)!r} holds no guider: {', '.join(missing)} missing")
        made: DualityGuidance = cls.from_config(cls.load_config(place), **kwargs)
        solution = du.Solution.from_json((place / SOLUTION).read_text(encoding="utf-8"))
        made.carried = Carried(load_file(place / TENSORS), solution)
        return made

    def _all(self) -> Carried:
        if self.carried is None:
            raise ValueError("the guider carries nothing: make it by DualityGuidance.of, or load it by from_pretrained")
        return self.carried

    def prepare_models(self, denoiser: torch.nn.Module) -> None:
        """The next pass of the network is corrected."""
        super().prepare_models(denoiser)
        if self._enabled:
            if self._guided is None or self._guided.denoiser.network is not denoiser:
                self._guided = _guided(self, denoiser)
            # Only the branch with the prompt falls back: a negative prompt may name the concept.
            self._guided.by_embeddings = self.is_conditional
            self._guided.__enter__()

    def cleanup_models(self, denoiser: torch.nn.Module) -> None:
        super().cleanup_models(denoiser)
        if self._enabled and self._guided is not None:
            self._guided.__exit__(None, None, None)


def _guided(guider: DualityGuidance, network: Any) -> Guided:
    carried, settings = guider._all(), guider.settings
    family: Any = FAMILIES[guider.family]
    device = next(network.parameters()).device
    parts = carried.tensors
    words = {
        name.removeprefix("words."): value.to(device) for name, value in parts.items() if name.startswith("words.")
    }
    table = {text: row for row, text in enumerate(settings["texts"])}
    signal, noise, told = (parts[f"levels.{name}"] for name in ("signal", "noise", "timesteps"))
    noising = Noising(signal, noise, told, settings["prediction_type"])

    class Bare(family):  # type: ignore[misc]  # the family is chosen at run time
        """The family's view of a network alone: prompts are read off the table of embeddings."""

        parts = ()

        def noising_of(self, scheduler: Any) -> Noising:
            return noising

        def condition(self, prompts: Any) -> Condition:
            index = torch.tensor([table[text] for text in prompts], device=device)
            return {name: value[index] for name, value in words.items()}

    stand_in = SimpleNamespace(scheduler=object(), components={}, vae=None, vae_scale_factor=8)
    setattr(stand_in, family.component, network)
    state = {name.removeprefix("classifier."): v for name, v in parts.items() if name.startswith("classifier.")}
    priors = state["log_priors"].exp().tolist()[:-1]
    classifier = RatioClassifier(state["center"].shape[0], state["log_shares"].exp().tolist(), priors)
    classifier.load_state_dict(state)
    laws = tuple(SimpleNamespace(prompts=tuple(texts), name=texts[0]) for texts in settings["concepts"])
    asked: Any = SimpleNamespace(concepts=laws, anchor=settings["anchor"])
    return Guided(Bare(stand_in), asked, classifier.to(device).eval(), carried.solution.guidance)
