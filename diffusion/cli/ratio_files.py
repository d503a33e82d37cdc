"""Log ratios from a safetensors file, believed only as far as they have been checked. Needs no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import typer

#: safetensors' names of the types that hold numbers.
TYPES = {
    **{f"F{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
    "BF16": "<u2",  # the upper halves of single-precision numbers
}
WANTED = ("values", "anchor", "log_weights", "priors")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE | re.ASCII)


def read_ratios(path: str) -> Any:
    """``du.LogRatios`` from a safetensors file, or None when ``path`` is no file.

    Raises ``ValueError`` naming the file, and the tensor where it is one, for anything that is not such a file.
    """
    if not Path(path).is_file():
        return None
    import duality as du

    tensors = _tensors(path)
    key = "values" if "values" in tensors else "anchor"  # `unlearn ratios` keeps those at samples of the anchor
    if key not in tensors:
        raise ValueError(f"file {path!r} holds no tensor named values or anchor, but {_listed(tensors) or 'none'}")
    read = {name: _array(path, name, tensors[name]) for name in WANTED if name in tensors}
    try:
        return du.LogRatios(read[key], log_weights=read.get("log_weights"), priors=read.get("priors"))
    except ValueError as error:
        raise ValueError(f"file {path!r}: {error}") from error


def number(text: str) -> float:
    """A finite number in ASCII digits; for `typer.Option(parser=...)`, which names the option in what it says."""
    text = str(text).strip()
    if not _NUMBER.fullmatch(text):
        raise typer.BadParameter(f"{text[:40]!r} is no number like 0.01")
    if not np.isfinite(value := float(text)):
        raise typer.BadParameter(f"{text[:40]!r} is beyond the range of a double")
    return value


def _tensors(path: str) -> dict[str, Any]:
    """Name -> type, shape and bytes."""
    try:
        from safetensors import SafetensorError, deserialize
    except ImportError as error:
        raise ValueError("reading cached ratios needs safetensors: install unlearning-duality[diffusion]") from error
    try:
        return dict(deserialize(Path(path).read_bytes()))
    except (SafetensorError, ValueError, OverflowError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"file {path!r} is no safetensors file, or not all of one ({reason})") from error


def _array(path: str, name: str, tensor: Any) -> np.ndarray:
    kind = TYPES.get(tensor["dtype"])
    if kind is None:
        raise ValueError(
            f"file {path!r}: tensor {name} is of type {tensor['dtype']}; one of {', '.join(TYPES)} is needed"
        )
    flat = np.frombuffer(bytes(tensor["data"]), dtype=kind)
    if tensor["dtype"] == "BF16":
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    return flat.reshape(tensor["shape"])


def _listed(names: Any) -> str:
    shown = [str(name)[:40] for name in list(names)[:8]]
    return ", ".join(shown) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
