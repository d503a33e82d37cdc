"""What decides a pipeline's law besides its weights: scheduler, image size, what it does by default.

A pipeline under another law is a view of it: the same networks, a scheduler of its own, and a size. Whatever reads the
pipeline through the view (samples, noise levels, images, chains, fingerprints) is of that law; the pipeline itself
stays as it is.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffusion.pipelines.base import Denoiser

#: Beside a pipeline in its folder: arguments of its call, where another default than the class's is meant.
DECLARED = "sampling.json"
_SAID, _ORIGIN = "_unlearning_law", "_unlearning_origin"  # attributes of a view

# These draw noise from generators of their own, one for a whole batch.
OWN_NOISE = ("DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler")


@dataclass(frozen=True)
class Said:
    """What a view says: height and width in pixels; the guidance scale that a network is told, where it is told one."""

    height: int
    width: int
    guidance_scale: float | None = None


def said_of(pipeline: Any) -> Said | None:
    """Of a view whose size or guidance is not the pipeline's own; None elsewhere."""
    found = getattr(pipeline, _SAID, None)
    return found if isinstance(found, Said) else None


def call_defaults(pipeline: Any) -> dict[str, Any]:
    """The arguments that the pipeline's ``__call__`` has where nobody gives them.

    Those of its class, and over them what ``sampling.json`` in its folder declares. ``ValueError`` naming that
    file where it cannot be read or meant.
    """
    found = {
        name: each.default
        for name, each in inspect.signature(type(pipeline).__call__).parameters.items()
        if each.default is not inspect.Parameter.empty
    }
    name = getattr(pipeline, "name_or_path", None)
    path = Path(str(name)) / DECLARED if name else None
    if path is not None and path.is_file():
        found |= _declared(path)
    return found


def _declared(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(said, dict):
        raise ValueError(f"{path} must hold names and values, got {type(said).__name__}")
    for name, value in said.items():
        if name.endswith("inference_steps") and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{path}: {name} must be a whole number of at least 1, got {value!r}")
    return said


def origin(pipeline: Any) -> Any:
    """The pipeline that this is a view of; itself where it is none."""
    return getattr(pipeline, _ORIGIN, pipeline)


def own_size(denoiser: Denoiser) -> tuple[int, int]:
    """Height and width in pixels of what the pipeline makes where nobody gives them."""
    if said_of(denoiser.pipeline) is None:
        return denoiser.size
    return _denoiser(denoiser, origin(denoiser.pipeline)).size


def _denoiser(like: Denoiser, pipeline: Any) -> Denoiser:
    kind: Any = type(like)  # every family is made of a pipeline
    made: Denoiser = kind(pipeline)
    return made


def under(
    denoiser: Denoiser,
    *,
    scheduler: str | None = None,
    size: tuple[int, int] | None = None,
    guidance_scale: float | None = None,
) -> Denoiser:
    """The denoiser of a view with that scheduler (by its class; None: as it is), size and told guidance (None: own).

    The pipeline's own where nothing differs. Raises ``ValueError`` for a scheduler that does not fit, naming those that
    do, and for a size that the network cannot have.
    """
    pipeline = denoiser.pipeline
    own = type(pipeline.scheduler).__name__
    said = None if size is None and guidance_scale is None else Said(*(size or own_size(denoiser)), guidance_scale)
    if scheduler in (None, own) and said == said_of(pipeline):
        return denoiser
    view = copy.copy(pipeline)
    view.__dict__.pop(_SAID, None)
    view.__dict__[_ORIGIN] = origin(pipeline)
    if said is not None:
        view.__dict__[_SAID] = said
    if scheduler not in (None, own):
        view.register_modules(scheduler=scheduler_named(denoiser, str(scheduler)))
    return _denoiser(denoiser, view)


@contextmanager
def old_numpy() -> Iterator[None]:
    """Inside, schedulers' calls that NumPy deprecates are not reported: they are diffusers' own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="__array_wrap__", category=DeprecationWarning)
        yield


@old_numpy()
def scheduler_named(denoiser: Denoiser, name: str) -> Any:
    """A scheduler by its class, with the settings of the pipeline's own.

    Raises ``ValueError`` where there is none of that name, or none that this pipeline can be sampled by.
    """
    own = origin(denoiser.pipeline).scheduler
    if name == type(own).__name__:
        return own
    fitting = {each.__name__: each for each in (type(own), *own.compatibles)}
    if name in fitting:
        made = fitting[name].from_config(own.config)
        reason = _unfit(denoiser, made)
        if reason is None:
            return made
    else:
        reason = "it is none that diffusers calls compatible"
    others = [each for each, kind in fitting.items() if _fits(denoiser, kind, own.config)]
    raise ValueError(
        f"scheduler: {type(denoiser.pipeline).__name__} with {type(own).__name__} cannot take "
        f"{name!r} ({reason}): give one of {', '.join(sorted(others))}"
    )


def _fits(denoiser: Denoiser, kind: Any, config: Any) -> bool:
    try:
        made = kind.from_config(config)
    except (ImportError, ValueError, TypeError, NotImplementedError):
        return False
    return _unfit(denoiser, made) is None


def _unfit(denoiser: Denoiser, scheduler: Any) -> str | None:
    """Why the pipeline cannot be sampled by a scheduler; None where it can."""
    if type(scheduler).__name__ in OWN_NOISE:
        return "it draws noise that no generator of ours decides"
    try:
        denoiser.noising_of(scheduler)
    except ValueError as error:
        return str(error)
    if denoiser.prompt_inputs:
        return None
    passed = {"generator", "eta"} if type(denoiser.pipeline).__name__ == "DDIMPipeline" else {"generator"}
    missing = passed - set(inspect.signature(scheduler.step).parameters)
    if missing:
        return f"its steps take no {', '.join(sorted(missing))}"
    # These pipelines scale neither their first noise nor what the network is given.
    scheduler.set_timesteps(10)
    x = torch.ones(1)
    scaled = scheduler.scale_model_input(x, scheduler.timesteps[0])
    if abs(float(scheduler.init_noise_sigma) - 1) > 1e-6 or not torch.equal(torch.as_tensor(scaled), x):
        return "it scales its states, and the pipeline does not"
    return None


def check_size(height: int, width: int, unit: int) -> None:
    """``ValueError`` where a side is no multiple of the unit, naming the nearest ones."""
    for name, side in (("height", height), ("width", width)):
        if side < 1 or side % unit:
            near = sorted({max(1, math.floor(side / unit)) * unit, max(1, math.ceil(side / unit)) * unit})
            raise ValueError(f"{name} must be a multiple of {unit}, got {side}: say {' or '.join(map(str, near))}")
