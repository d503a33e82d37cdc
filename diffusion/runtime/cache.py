"""What was computed once is kept: safetensors files that name what produced them and are never half-written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusion.runtime.distributed import same
from diffusion.runtime.files import whole

Tensors = dict[str, Tensor]


def default_folder() -> Path:
    """``$UNLEARNING_DUALITY_CACHE``, or ``unlearning-duality`` in the user's cache folder."""
    chosen = os.environ.get("UNLEARNING_DUALITY_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unlearning-duality"


class Cache:
    """Files in ``folder``, each valid only for the exact request that made it.

    The request is written into the file; a file under the same name made by another request (another model, other
    prompts, another seed) is refused with ``ValueError`` rather than used or overwritten.
    """

    def __init__(self, folder: Path, model: str) -> None:
        self.folder, self.model = folder, model
        self.hits: list[str] = []

    def get(self, name: str, request: Mapping[str, Any], make: Callable[[], Tensors]) -> Tensors:
        """The tensors of ``name`` for this request, computed by ``make`` where they are not kept yet. Collective.

        Of several processes all work, and take the main one's word. ``OSError`` where the file cannot be written.
        """
        from safetensors import safe_open
        from safetensors.torch import load_file, save_file

        wanted = json.dumps({"model": self.model, **request}, sort_keys=True, default=str)
        key = hashlib.sha256(wanted.encode()).hexdigest()[:12]
        path = self.folder / f"{name}-{key}.safetensors"
        if same(path.exists()):
            try:
                with safe_open(path, "pt") as file:
                    found = (file.metadata() or {}).get("request")
            except Exception as error:
                raise ValueError(f"cache file {path} cannot be read ({error}): remove it") from error
            if found != wanted:
                raise ValueError(f"cache file {path} was made for {found}, not for {wanted}: remove it")
            self.hits.append(name)
            return load_file(path)
        tensors = same({label: value.detach().cpu().contiguous() for label, value in make().items()})
        with whole(path) as partial:
            save_file(tensors, partial, metadata={"request": wanted})
        return tensors
