"""What a fit says while it runs, step by step, to TensorBoard, W&B or whatever else accelerate knows. Off by default.

::

    with Tracked(["tensorboard"], folder, settings):
        method.fit(...)

logs, for every optimiser step, the loss, its terms (``retention``, ``constraint``, where a method has them) and the
rate; for every dual round the multipliers before it, the levels of the averaged weights, their standard errors and
slacks. A tracker is told, never asked: nothing of a run depends on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path
from typing import Any

#: Trackers that are known by name, and the package that each needs.
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}

_ACTIVE: ContextVar[Any] = ContextVar("active trackers", default=None)


class Tracked:
    """Inside the block, fits are tracked.

    Args:
        trackers: names in :data:`PACKAGES`, or accelerate ``GeneralTracker`` objects.
        folder: where those that write files put them.
        config: settings to be shown beside the run; numbers and strings.
        project: the run's name.

    Raises ``ValueError`` for an unknown name and ``ImportError``, before any work, for a package that is missing.
    """

    def __init__(
        self,
        trackers: Sequence[Any],
        folder: Path | str,
        config: Mapping[str, Any] | None = None,
        project: str = "unlearning",
    ) -> None:
        for tracker in trackers:
            if not isinstance(tracker, str):
                continue
            if tracker not in PACKAGES:
                raise ValueError(f"tracker must be one of {', '.join(PACKAGES)}, got {tracker!r}")
            if find_spec(PACKAGES[tracker]) is None:
                package = PACKAGES[tracker]
                raise ImportError(f"tracker {tracker!r} needs the package {package}: pip install {package}")
        self.trackers, self.folder, self.project = list(trackers), Path(folder), project
        self.config = {name: _plain(value) for name, value in (config or {}).items()}

    def __enter__(self) -> Tracked:
        from accelerate import Accelerator

        from diffusion.runtime.distributed import world

        state = world()  # decides on the device first; the accelerator takes it over
        self._accelerator = Accelerator(cpu=state.device.type == "cpu", log_with=self.trackers, project_dir=self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)  # where it is missing, W&B writes elsewhere
        places = {"wandb": {"dir": str(self.folder)}}
        self._accelerator.init_trackers(self.project, config=self.config, init_kwargs=places)
        self._token = _ACTIVE.set(self._accelerator)
        return self

    def __exit__(self, *_: object) -> None:
        _ACTIVE.reset(self._token)
        # Not `end_training`, which would end the process group as well: there is work after the fit.
        for tracker in self._accelerator.trackers:
            tracker.finish()


def log(step: int, values: Mapping[str, float]) -> None:
    """Tell the active trackers, where there are any."""
    accelerator = _ACTIVE.get()
    if accelerator is not None:
        accelerator.log(dict(values), step=step)


def log_round(
    step: int, multipliers: Iterable[float], levels: Iterable[float], errors: Iterable[float], slacks: Iterable[float]
) -> None:
    """Tell of a dual round, each (m,), at the optimiser step that it ended with."""
    named = {"multiplier": multipliers, "level": levels, "standard error": errors, "slack": slacks}
    log(step, {f"{name}/{i}": float(v) for name, row in named.items() for i, v in enumerate(row)})


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str | bool) else str(value)
