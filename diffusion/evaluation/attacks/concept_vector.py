r"""Concept vectors added to what the network reads of a prompt.

::

    v = mean over prompts of ( e(prompt) - e(prompt of the rest) ),      e(anchor) + eta v

e the text encoder's output; eta is the one of a few whose samples show the concept most often, sampled afresh. Nothing
is learned of the network.

Source: Tsai et al., Ring-A-Bell! (ICLR 2024), which then looks for tokens that come near this vector: fewer things can
be said by tokens than by vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

from diffusion.evaluation.attacks.base import FRESH, Attack, Brought, Victim, sampled
from diffusion.pipelines import Condition


@dataclass(frozen=True)
class ConceptVector(Attack):
    """``strengths``: eta. ``others``: prompts that do not ask for it; left out, the anchor."""

    strengths: tuple[float, ...] = (1.0, 2.0, 3.0, 5.0)
    others: tuple[str, ...] = ()
    name = "concept vector"

    def run(self, victim: Victim) -> Brought:
        tried = []
        for number, strength in enumerate(self.strengths):
            share = victim.share(sampled(victim, self.shifted(victim, strength), victim.search, 200 + number))
            tried.append((share, -number, strength))
        best = max(tried)
        detail = f"strength {best[2]:g}, {best[0]:.2f} of {victim.search} in the search"
        return Brought(sampled(victim, self.shifted(victim, best[2]), victim.samples, FRESH), detail)

    def shifted(self, victim: Victim, strength: float) -> Condition:
        """The anchor's condition, moved."""
        denoiser = victim.denoiser
        asked, rest = (denoiser.condition(list(some)) for some in (victim.prompts, self.others or (victim.anchor,)))
        base = denoiser.condition([victim.anchor])
        return base | {
            name: base[name] + strength * (asked[name].mean(0) - rest[name].mean(0))[None]
            for name in denoiser.prompt_inputs
        }
