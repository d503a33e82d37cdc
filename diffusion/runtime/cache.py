"""What was computed once is kept: safetensors files that name what produced them and are never half-written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusion.runtime.distributed import broadcast_object, is_main
from diffusion.runtime.files import check_folder, clear_partials, say
from diffusion.runtime.tensor_files import DamagedError, read_tensors, write_tensors

Tensors = dict[str, Tensor]


def default_folder() -> Path:
    """``$UNLEARNING_DUALITY_CACHE``, or ``unlearning-duality`` in the user's cache folder."""
    from platformdirs import user_cache_path

    chosen = os.environ.get("UNLEARNING_DUALITY_CACHE")
    return Path(chosen) if chosen else user_cache_path("unlearning-duality", appauthor=False)


class Cache:
    """Files in ``folder``, each valid only for the exact request that made it.

    The request is written into the file, with a digest of names, types, shapes and values. A file that does not hold
    what was written, or was made by another request (another model, other prompts, another seed), is named and computed
    again. What writers that were killed have left in the folder is cleared away.

    Raises ``OSError`` naming the folder where nothing can be written into it. Collective.
    """

    def __init__(self, folder: Path, model: str) -> None:
        self.folder, self.model = folder, model
        self.hits: list[str] = []
        problem: OSError | None = None
        if is_main():
            try:
                check_folder(folder, "cache folder")
                clear_partials(folder)
            except OSError as error:
                problem = error
        problem = broadcast_object(problem)
        if problem is not None:
            raise problem

    def get(self, name: str, request: Mapping[str, Any], make: Callable[[], Tensors]) -> Tensors:
        """The tensors of ``name`` for this request, computed by ``make`` where they are not kept yet. Collective.

        Of several processes all work, and take the main one's word. ``OSError`` where the file cannot be written.
        """
        wanted = json.dumps({"model": self.model, **request}, sort_keys=True, default=str)
        key = hashlib.sha256(wanted.encode()).hexdigest()[:12]
        path = self.folder / f"{name}-{key}.safetensors"
        kept = broadcast_object(_kept(path, wanted) if is_main() else None)
        if kept is not None:
            self.hits.append(name)
            return kept
        tensors = broadcast_object({label: value.detach().cpu().contiguous() for label, value in make().items()})
        if is_main():
            write_tensors(path, tensors, {"request": wanted})
        return tensors


def kept_tensor(cache: Cache | None, name: str, request: Mapping[str, Any], make: Callable[[], Tensor]) -> Tensor:
    """One tensor, as :meth:`Cache.get` keeps it; made anew where there is no cache."""
    return make() if cache is None else cache.get(name, request, lambda: {"value": make()})["value"]


def _kept(path: Path, wanted: str) -> Tensors | None:
    """What the file holds for this request; None where there is none, or it has to be computed again."""
    if not path.exists():
        return None
    try:
        tensors, metadata = read_tensors(path)
    except DamagedError as error:
        say(f"cache file {path} is not used, {error}; it is computed again")
        return None
    if metadata.get("request") != wanted:
        say(f"cache file {path} is not used, it was made for {metadata.get('request')}; it is computed again")
        return None
    return tensors
