r"""CLIP as a zero-shot detector.

::

    l(x) = softmax_k( s <image(x), text_k> )_1,        s CLIP's own scale,

of texts ``"a photo of a cat|a photo of a dog|a photo"``, the first of which is the concept's. Source: Radford et al.,
Learning Transferable Visual Models From Natural Language Supervision (ICML 2021).
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from diffusion.tasks.detectors import DifferentiableDetector, one_against_rest

MODEL = "openai/clip-vit-base-patch32"
AT = "@"  # "clip:texts@folder or hub name"


def clip(said: str) -> DifferentiableDetector:
    """The detector of ``"text|other text|..."``, optionally with ``@`` and a folder or hub name of a CLIP model.

    Raises ``ValueError`` for less than two texts, texts beyond the model's limit, or a model that cannot be loaded.
    """
    texts_said, _, source = said.partition(AT)
    texts = [text.strip() for text in texts_said.split("|")]
    if len(texts) < 2 or not all(texts):
        raise ValueError(f"detector 'clip:{said}': at least two texts are needed, 'a photo of a cat|a photo'")
    from transformers import CLIPModel, CLIPTokenizer

    source = source.strip() or MODEL
    try:
        model: Any = CLIPModel.from_pretrained(source).eval().requires_grad_(False)
        tokenizer: Any = CLIPTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"detector 'clip:{said}': no CLIP model can be loaded from {source!r}: {reason}") from None
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    limit = int(model.config.text_config.max_position_embeddings)
    if tokens["input_ids"].shape[1] > limit:
        raise ValueError(f"detector 'clip:{said}': a text has more than the {limit} tokens that the model reads")
    with torch.no_grad():
        written = _unit(model.get_text_features(**tokens))
    side = int(model.config.vision_config.image_size)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in _colours(source))

    def logits(images: torch.Tensor) -> torch.Tensor:
        seen = images.to(mean)
        seen = seen if seen.shape[1] == 3 else seen[:, :1].expand(-1, 3, -1, -1)
        # The shorter side to the model's, the middle square of it, as CLIP was trained.
        height, width = seen.shape[-2:]
        size = [max(side, round(side * length / min(height, width))) for length in (height, width)]
        shown = nn.functional.interpolate((seen + 1) / 2, size, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = ((length - side) // 2 for length in size)
        pixels = (shown[..., top : top + side, left : left + side] - mean) / std
        found = model.logit_scale.exp() * _unit(model.get_image_features(pixel_values=pixels)) @ written.T
        return cast(torch.Tensor, found)

    def shows(images: NDArray[np.float32]) -> NDArray[np.float64]:
        with torch.no_grad():
            return np.asarray(logits(torch.from_numpy(np.ascontiguousarray(images))).double().softmax(-1)[:, 0].numpy())

    def log_odds(images: torch.Tensor) -> torch.Tensor:
        return one_against_rest(logits(images), 0)

    return DifferentiableDetector(shows, log_odds)


def _unit(features: Any) -> torch.Tensor:
    """Features (n, D) of length one; newer transformers hand them over inside an output object."""
    values = features if isinstance(features, torch.Tensor) else features.pooler_output
    return nn.functional.normalize(values, dim=-1)


def _colours(source: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the colours, by the model's own image processor; CLIP's where it has none."""
    from transformers import CLIPImageProcessor
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    try:
        processor: Any = CLIPImageProcessor.from_pretrained(source)
    except (OSError, ValueError):
        return list(OPENAI_CLIP_MEAN), list(OPENAI_CLIP_STD)
    return list(processor.image_mean), list(processor.image_std)
