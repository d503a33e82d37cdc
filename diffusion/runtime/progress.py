"""How far a stage has come, shown to whoever waits for it: a bar on a terminal, plain lines with the time elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol, TextIO

from tqdm import tqdm

from diffusion.runtime.distributed import is_main

EVERY = 30.0  # seconds from one plain line of a stage to the next


class Bar(Protocol):
    """Shows how far a stage has come: called with its title and the number of units, it gives a context."""

    def __call__(self, title: str, total: int) -> AbstractContextManager[Any]:
        """A progress bar with ``update(count)``."""
        ...


class Lines:
    """``HH:MM:SS title ...`` at the start of a stage, every ``EVERY`` seconds, and at its end.

    Args:
        title, total: of the stage; its units.
        stream: where lines go; left out, standard error, None where another process shows them.
        clock: seconds, for tests.
    """

    def __init__(
        self, title: str, total: int, stream: TextIO | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.title, self.total, self.stream, self.clock = title, total, stream, clock
        self.done, self.started = 0, clock()
        self.said = self.started

    def __enter__(self) -> Lines:
        self._say(f"{self.title} ({self.total:,})")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        took = self.clock() - self.started
        self._say(f"{self.title}: {'done in' if kind is None else 'stopped after'} {took:.0f} s")

    def update(self, count: int = 1) -> None:
        """``count`` more units are done."""
        self.done += count
        now = self.clock()
        if now - self.said >= EVERY:
            self.said = now
            left = (now - self.started) / max(1, self.done) * (self.total - self.done)
            rest = f"about {left:.0f} s left" if self.done <= self.total else "and further ones"
            self._say(f"{self.title}: {min(self.done, self.total):,} of {self.total:,}, {rest}")

    def _say(self, words: str) -> None:
        if self.stream is not None:
            print(f"{time.strftime('%H:%M:%S')} {words}", file=self.stream, flush=True)


def progress_bar(title: str, total: int) -> AbstractContextManager[Any]:
    """A :class:`Bar` with the time that is left; plain lines where standard error is no terminal."""
    if not sys.stderr.isatty():
        return Lines(title, total, sys.stderr if is_main() else None)
    return tqdm(total=total, desc=title.ljust(28), leave=True, dynamic_ncols=True, disable=not is_main())


def numbered(bar: Bar, titles: Sequence[str]) -> Bar:
    """The same bar, with ``3/8`` before the titles of a run's stages; stages that are kept from before are left out."""

    def shown(title: str, total: int) -> AbstractContextManager[Any]:
        number = f"{titles.index(title) + 1}/{len(titles)} " if title in titles else ""
        return bar(number + title, total)

    return shown
