"""Every public name of `duality`, `toy`, `diffusion` has a docstring and a place in the reference, or the build fails.

Public in `duality` and `toy` is what their `__all__` holds. `diffusion` is used by its modules: public are all of them
but those in `INTERNAL`, with every function and class that they define, and the `__all__` of the packages inside.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGES = ("duality", "toy")
MODULES = "diffusion"
LISTED = re.compile(r"^\.\. (?:auto(?:class|function|exception|module)|py:data):: ([\w.]+)", re.MULTILINE)
# The command line, what writes its pages and cards, studies that are run as programs, and the parts that the listed
# modules are put together from. A name stands for a module or a package with all that is in it.
INTERNAL = (
    *(
        "api",
        "cli",
        "reports",
        "workflows",
        "digits.experiments",
        "digits.classifiers",
        "digits.detectors",
        "wardrobe.experiments",
    ),
    *(
        "runtime.files",
        "runtime.locks",
        "runtime.memory",
        "runtime.progress",
        "runtime.seeds",
        "training.batches",
        "pipelines.single_file",
        "pipelines.textual_inversion",
        "ratios.noised_network",
        "wardrobe.detectors",
        "ratios.noise_integral",
    ),
    *("methods.base", "methods.dual_steps", "methods.lagrangians", "methods.images.importance_mixture"),
    *("methods.dual_loop", "methods.forget_retain_sets", "methods.likelihood"),
    *("pipelines.adapter", "pipelines.adapters", "pipelines.base", "pipelines.schedules"),
    *("pipelines.stable_diffusion", "pipelines.stable_diffusion_xl", "pipelines.stable_diffusion_3"),
    *("pipelines.batch_size", "pipelines.dit", "pipelines.flux", "pipelines.unconditional"),
)


def listed(reference: Path) -> set[str]:
    """Names that the pages of the reference document."""
    return {name for page in sorted(reference.glob("*.md")) for name in LISTED.findall(page.read_text("utf-8"))}


def public() -> dict[str, Any]:
    """Every name in the packages' `__all__`, with its object."""
    modules = [importlib.import_module(package) for package in PACKAGES]
    found: dict[str, Any] = {}
    for module in modules:
        for name in module.__all__:
            value = getattr(module, name)
            # A module that a package hands on is documented under the name that it is imported by.
            found[value.__name__ if inspect.ismodule(value) else f"{module.__name__}.{name}"] = value
    return found


def public_modules() -> Iterator[ModuleType]:
    """The package `diffusion` and its modules, without those that are internal."""
    package = importlib.import_module(MODULES)
    yield package
    for found in pkgutil.walk_packages(package.__path__, f"{MODULES}."):
        name = found.name.removeprefix(f"{MODULES}.")
        inside = any(f"{name}.".startswith(f"{one}.") for one in INTERNAL)
        if not inside and not any(part.startswith("_") for part in name.split(".")):
            yield importlib.import_module(found.name)


def defined(module: ModuleType) -> dict[str, Any]:
    """What a module exports, or else every public function and class that it defines itself."""
    if hasattr(module, "__all__"):
        return {name: getattr(module, name) for name in module.__all__}
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isroutine(value))
        and value.__module__ == module.__name__
    }


def documented(value: Any) -> bool:
    """Whether a class, function or module has a docstring of its own; other values are described on their page."""
    if not (inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value)):
        return True
    text = (value.__doc__ or "").strip()
    generated = inspect.isclass(value) and text.startswith(f"{value.__name__}(")  # a dataclass's or tuple's signature
    return bool(text) and not generated


def complaints(reference: Path) -> list[str]:
    """What is missing, one sentence for each name."""
    names = listed(reference)
    found = []
    for name, value in public().items():
        if name not in names:
            found.append(f"{name}: not listed in docs/reference")
        if not documented(value):
            found.append(f"{name}: no docstring")
    entries = [name for page in sorted(reference.glob("*.md")) for name in LISTED.findall(page.read_text("utf-8"))]
    found += [f"{name}: listed twice in docs/reference" for name in sorted(names) if entries.count(name) > 1]
    known = public()
    for name in sorted(names):
        member = name.partition(".")[0] in PACKAGES and name.count(".") == 1
        if member and name not in known and importlib.util.find_spec(name) is None:  # modules may be shown as well
            found.append(f"{name}: listed in docs/reference, but not public")
    for module in public_modules():
        if module.__name__ not in names:
            found.append(f"{module.__name__}: not listed in docs/reference, nor internal in docs/_ext/complete.py")
        inside = defined(module)
        found += [f"{module.__name__}.{name}: no docstring" for name, value in inside.items() if not documented(value)]
    return found


def check(app: Any) -> None:
    from sphinx.errors import ExtensionError

    found = complaints(Path(app.srcdir) / "reference")
    if found:
        raise ExtensionError("the reference is not complete:\n" + "\n".join(found))


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", check, priority=100)  # before the gallery runs
    return {"parallel_read_safe": True, "parallel_write_safe": True}
