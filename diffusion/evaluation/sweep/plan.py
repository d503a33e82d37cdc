"""What a sweep runs: methods, each over its own strengths and budgets, and how much is looked at."""

from __future__ import annotations

from dataclasses import dataclass, field

from diffusion.evaluation.sweep.measure import Measured
from diffusion.evaluation.sweep.point import Setting
from diffusion.methods.erasure import ERASURES
from diffusion.tasks.config import Sampling

OURS = "ours"
GUIDANCE = "ours-guidance"  # the same fitted along the student's own chain
REJECTION = "rejection"  # the target of ours, exactly and without a network of its own
MEASURED_BY = "kernel machine"  # ours sees the other classifier as its detector
METHODS = (OURS, GUIDANCE, REJECTION, *ERASURES)

#: What each method is swept over; of the first three the level.
STRENGTHS: dict[str, tuple[float, ...]] = {
    OURS: (0.02, 0.08, 0.01),
    GUIDANCE: (0.02, 0.08, 0.01),
    REJECTION: (0.02, 0.08, 0.01),
    "leco": (1.0, 0.5, 2.0),
    "esd-x": (1.0, 3.0),
    "esd-u": (1.0, 3.0),
    "uce": (1.0, 10.0, 0.1, 100.0),
    "concept-ablation": (1.0, 1.5, 0.7),
    "neggrad": (0.1, 0.02, 0.5),
    "erasediff": (0.1, 1.0),
    "salun": (1.0, 10.0),
}
BY_LEVEL = (OURS, GUIDANCE, REJECTION)  # one target
#: Times as many samples of the law as ours: the gradient of a noised detector is all that this fit goes by.
GUIDANCE_SAMPLES = 3
Budget = tuple[int, float, int, bool]  # steps, rate, batch size, all weights
ESD_ORIGINAL: Budget = (200, 5e-5, 1, True)
#: Rates are above the originals': at 1e-3 LECO erases nothing in 60 steps of this trainer, and nearly all in 150 (of a
#: dress 7 % at half the rate). Its warm-up, cosine and average may have a part in it.
BUDGETS: dict[str, tuple[Budget, ...]] = {
    OURS: ((200, 2e-3, 24, False), (100, 2e-3, 24, False)),
    GUIDANCE: ((300, 2e-3, 48, False),),
    REJECTION: ((0, 0.0, 0, False),),
    "leco": (
        (60, 5e-3, 4, False),
        (150, 1e-3, 4, False),
        (130, 1e-3, 4, False),
        (100, 1e-3, 4, False),
        (500, 1e-4, 1, False),
    ),
    "esd-x": ((60, 5e-3, 4, False), (150, 2e-3, 4, False), ESD_ORIGINAL),
    "esd-u": ((60, 5e-3, 4, False), (150, 2e-3, 4, False), ESD_ORIGINAL),
    "uce": ((1, 1.0, 1, True),),
    "concept-ablation": ((60, 4e-3, 8, False), (150, 2e-3, 8, False)),
    "neggrad": ((60, 2e-3, 16, False), (150, 1e-3, 16, False)),
    "erasediff": ((60, 2e-3, 16, False), (150, 1e-3, 16, False)),
    "salun": ((60, 3e-4, 16, True), (150, 1e-4, 16, True)),
}


@dataclass(frozen=True)
class Sweep:
    """What is run: methods by name, training seeds, the sampler that everything refers to, and how much is looked at.

    ``points``: that are run at most, the next call goes on. ``quick``: one setting of each method, of two steps and few
    small sets: that everything runs, in under a minute of one core, and nothing else.
    """

    methods: tuple[str, ...] = METHODS
    seeds: tuple[int, ...] = (0,)
    sampling: Sampling = field(default_factory=lambda: Sampling(guidance_scale=3.0))
    measured: Measured = field(default_factory=Measured)
    rank: int = 8
    samples: int = 400  # of the law of prompts, that ours solves on
    quick: bool = False
    points: int | None = None

    def __post_init__(self) -> None:
        for name in self.methods:
            if name not in METHODS:
                raise ValueError(f"method must be one of {', '.join(METHODS)}, got {name!r}")

    def settings(self) -> list[Setting]:
        """In the order in which they are run: the first budget and strength of every method, then the next."""
        every = []
        for budget in range(max(map(len, BUDGETS.values()))):
            for index in range(max(map(len, STRENGTHS.values()))):
                for name in self.methods:
                    if budget < len(BUDGETS[name]) and index < len(STRENGTHS[name]):
                        steps, rate, batch, full = BUDGETS[name][budget]
                        strength = STRENGTHS[name][index]
                        if self.quick:
                            steps, batch = min(steps, 2), min(batch, 4)
                            strength = QUICK_LEVEL if name in BY_LEVEL else max(STRENGTHS[name])
                        every += [
                            Setting(
                                method=name,
                                strength=strength,
                                max_train_steps=steps,
                                learning_rate=rate,
                                train_batch_size=batch,
                                full_weights=full,
                                seed=seed,
                            )
                            for seed in self.seeds
                        ]
        return every[: len(self.methods) * len(self.seeds)] if self.quick else every


QUICK_LEVEL = 0.04  # that few samples can show
QUICK = Sweep(
    sampling=Sampling(guidance_scale=3.0, num_inference_steps=4),
    measured=Measured(samples=4, chains=2, chain_steps=3),
    samples=160,
    quick=True,
)
