"""Tensors in a safetensors file with a digest: what was damaged is never taken for what was written.

digest = SHA-256 over metadata, and over the name, type, shape and bytes of every tensor

Metadata and digest are one JSON text with its keys in order: safetensors writes several entries of metadata in an order
that changes from process to process, and the same tensors are to give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from diffusion.runtime.files import atomic_write

CONTENTS = "contents"


class DamagedError(ValueError):
    """A file does not hold what was written into it; the message has the reason."""


def digest_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """See the module; 64 hexadecimal digits."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Whole or not at all; the same content gives the same bytes. ``OSError`` names a file that cannot be written."""
    from safetensors.torch import save_file

    held = {name: value.detach().contiguous() for name, value in tensors.items()}
    contents = json.dumps({"metadata": dict(metadata), "sha256": digest_of(held, metadata)}, sort_keys=True)
    with atomic_write(path) as partial:
        save_file(held, partial, metadata={CONTENTS: contents})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What :func:`write_tensors` wrote: tensors on the CPU, and metadata. Raises :class:`DamagedError`."""
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            contents = (file.metadata() or {}).get(CONTENTS)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors has its own, and reading may fail in any way at all
        raise DamagedError(f"it cannot be read: {' '.join(str(error).split())}") from error
    if contents is None:
        raise DamagedError("it carries no digest")
    try:
        described = json.loads(contents)
        metadata, expected = dict(described["metadata"]), described["sha256"]
    except (ValueError, KeyError, TypeError) as error:  # one bit may fall on this text, too
        raise DamagedError("its content does not match its digest") from error
    if digest_of(tensors, metadata) != expected:
        raise DamagedError("its content does not match its digest")
    return tensors, metadata
