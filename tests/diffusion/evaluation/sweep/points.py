"""Points of a sweep with the figures that tables are made of."""

import numpy as np

from diffusion.evaluation.bounds import mean_estimate
from diffusion.evaluation.sweep.point import Figure, Point, Setting
from diffusion.runtime.documents import Estimate

BY = "kernel machine"


def point(method, left=0, kept=100, crossed=100, nats=2.0, error=0.1, failed=None, seed=0):
    def counted(name, prompts, hits):
        return Figure(name=name, prompts=prompts, by=BY, estimate=Estimate(mean=hits / 100, stderr=0.0, n=100))

    figures = (
        counted("target_share", "asked", left),
        counted("in_axis_accuracy", "retained", kept),
        counted("cross_axis_accuracy", "all", crossed),
        Figure(name="cost", prompts="retained", estimate=Estimate(mean=nats, stderr=error, n=4)),
    )
    setting = Setting(method=method, strength=1.0, max_train_steps=1, learning_rate=1.0, train_batch_size=1, seed=seed)
    return Point(
        task="t", concept="c", setting=setting, command="", failed=failed, figures=() if failed else figures
    )  # fmt: skip


def paid(method, values, **rest):
    found = mean_estimate(np.array(values))
    made = point(method, nats=found.mean, error=found.stderr, **rest)
    *others, cost = made.figures
    return made.model_copy(update={"figures": (*others, cost.model_copy(update={"values": tuple(values)}))})
