"""Every public name of `duality` and `toy` has a docstring and a place in the reference, or the build fails."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any

PACKAGES = ("duality", "toy")
LISTED = re.compile(r"^\.\. (?:auto(?:class|function|exception|module)|py:data):: ([\w.]+)", re.MULTILINE)


def listed(reference: Path) -> set[str]:
    """Names that the pages of the reference document."""
    return {name for page in sorted(reference.glob("*.md")) for name in LISTED.findall(page.read_text("utf-8"))}


def public() -> dict[str, Any]:
    """Every name in the packages' `__all__`, with its object."""
    modules = [importlib.import_module(package) for package in PACKAGES]
    return {f"{module.__name__}.{name}": getattr(module, name) for module in modules for name in module.__all__}


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
    known = public()
    for name in sorted(names):
        member = name.partition(".")[0] in PACKAGES and name.count(".") == 1
        if member and name not in known and importlib.util.find_spec(name) is None:  # modules may be shown as well
            found.append(f"{name}: listed in docs/reference, but not public")
    return found


def check(app: Any) -> None:
    from sphinx.errors import ExtensionError

    found = complaints(Path(app.srcdir) / "reference")
    if found:
        raise ExtensionError("the reference is not complete:\n" + "\n".join(found))


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
