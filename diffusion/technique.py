"""A result as a technique of ``eval-unlearn``, a benchmark of erased text-to-image models (PyPI, MIT licence).

Installed beside it, this package adds the technique ``duality`` by an entry point; nothing of ``eval-unlearn`` is
imported. Its protocol: keywords of a configuration in, then ``generate(prompts, seed)`` to one image per prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusion.api import open_at_law
from diffusion.pipelines.fitted import put_in
from diffusion.pipelines.law import old_numpy
from diffusion.tasks.config import CONFIG, Config, Sampling
from diffusion.tasks.settings import read_yaml
from diffusion.tasks.task import TASK


class UnlearnedTechnique:
    """The pipeline of a result's folder, with its LoRA or network put in.

    Args:
        result: the folder that ``unlearn distill`` or ``unlearn forget`` wrote.
        model_id: the model; left out, the one that the result's task names.
        erase_concept: read by metrics of ``eval-unlearn`` that are about one concept alone; nothing here depends on it.
        device, use_fp16: where the model is loaded, and whether in half precision.
        num_inference_steps, guidance_scale: left out, those of the result, which are what was measured and certified.

    Raises ``ValueError`` for a keyword that is none of these, a folder that holds no result, or one of another model.
    """

    def __init__(
        self, *, result: str = "", model_id: str | None = None, device: str | None = None, **more: Any
    ) -> None:
        known = ("erase_concept", "use_fp16", "num_inference_steps", "guidance_scale")
        wrong = sorted(set(more) - set(known))
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: the technique takes result, model_id, device, {', '.join(known)}")
        folder = Path(result)
        if not result or not folder.is_dir():
            raise ValueError(f"result must be the folder of a result, got {result!r}")
        given = Config(**read_yaml(folder / CONFIG)) if (folder / CONFIG).exists() else Config()
        said = {name: more[name] for name in ("num_inference_steps", "guidance_scale") if more.get(name) is not None}
        named = model_id or (read_yaml(folder / TASK).get("model") if (folder / TASK).exists() else None)
        if not named:
            raise ValueError(f"model_id must be given: {folder} names no model")
        runtime = given.runtime.but(device=device, dtype="float16" if more.get("use_fp16") else "float32")
        sampling = Sampling(**given.sampling.plain() | said)
        self.denoiser, config = open_at_law(str(named), given.but(sampling=sampling, runtime=runtime))
        put_in(self.denoiser, folder)
        self.sampling = config.sampling

    def generate(self, prompts: Sequence[str], seed: int | None = None, **call: Any) -> list[Any]:
        """One Pillow image per prompt, the j-th from seed + j, whatever else is asked for beside it; ``call``: further
        arguments of the pipeline's call."""
        import torch

        pipeline, images = self.denoiser.pipeline, []
        asked = self.sampling.call(self.denoiser)
        asked = {"num_inference_steps": asked.pop("steps")} | asked | call
        for j, prompt in enumerate(prompts):
            generator = None if seed is None else torch.Generator().manual_seed(seed + j)
            with torch.no_grad(), old_numpy():
                images.append(pipeline(prompt=prompt, generator=generator, output_type="pil", **asked).images[0])
        return images
