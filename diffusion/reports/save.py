"""A finished run into a folder: weights, certificate, solution, model card, images."""

from __future__ import annotations

from pathlib import Path

from diffusion.evaluation.pairs import PAIR_IMAGES, PAIR_PROMPTS, PAIRED, PAIRS
from diffusion.evaluation.samples import SampleSet
from diffusion.pipelines import Denoiser
from diffusion.pipelines.fitted import holds_fit
from diffusion.reports.base_model import base_of
from diffusion.reports.figures import Pairs, save_pairs
from diffusion.reports.results import Unlearned
from diffusion.training.lora import save_student


def save(result: Unlearned, denoiser: Denoiser, folder: Path) -> None:
    """LoRA or network, certificate, solution, card and before/after image, into the folder of a running output."""
    from diffusion.reports.model_card import model_card

    if not holds_fit(folder):  # else it was kept as soon as it was there
        save_student(denoiser, folder)
    (folder / "certificate.json").write_text(result.certificate.to_json(), encoding="utf-8")
    (folder / "solution.json").write_text(result.solution.to_json() + "\n", encoding="utf-8")
    (folder / "README.md").write_text(model_card(result, base_of(denoiser)), encoding="utf-8")
    save_pairs(folder / "before_after.png", pairs(result.samples))


def pairs(samples: dict[str, SampleSet]) -> list[Pairs]:
    """Before and after from the same noise, a strip for each prompt: the anchor first, then concepts and the rest."""
    before, after = samples["before, anchor"], samples[PAIRED]
    anchor = f"{before.prompts[0]!r}" if before.prompts[0] else "the empty prompt"
    count = min(PAIR_IMAGES * PAIR_PROMPTS, len(before), len(after))
    found = []
    for start in range(0, count, PAIR_IMAGES):
        some = slice(start, min(start + PAIR_IMAGES, count))
        if start and some.stop - some.start < PAIR_IMAGES:
            break  # strips are of one width
        found.append(Pairs(anchor, before.images[some], after.images[some]))
    if PAIRS[0] in samples:
        before, after = (samples[name] for name in PAIRS)
        for prompt in dict.fromkeys(before.prompts):
            rows = [j for j, text in enumerate(before.prompts) if text == prompt]
            found.append(Pairs(f"{prompt!r}", before.images[rows], after.images[rows]))
    return found
