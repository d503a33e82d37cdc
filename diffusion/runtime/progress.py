"""How far a stage has come, shown to whoever waits for it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from tqdm import tqdm

from diffusion.runtime.distributed import is_main


class Bar(Protocol):
    """Shows how far a stage has come: called with its title and the number of units, it gives a context."""

    def __call__(self, title: str, total: int) -> AbstractContextManager[Any]:
        """A progress bar with ``update(count)``."""
        ...


def progress_bar(title: str, total: int) -> AbstractContextManager[Any]:
    """A :class:`Bar` on the terminal, with the time that is left."""
    return tqdm(total=total, desc=title.ljust(28), leave=True, dynamic_ncols=True, disable=not is_main())
