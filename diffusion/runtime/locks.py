"""Whose is it: a file or folder that is being written is locked by its writer, and the lock ends with the process.

A process number would say less: numbers are given again after a restart, and mean nothing in another container.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows: nothing is locked, and nothing is taken for abandoned
    fcntl = None  # type: ignore[assignment]

TRIES = 50  # others hold a lock for the moment in which they look whether anybody does


def claim(path: Path, make: Callable[[Path], object]) -> int:
    """Make ``path`` and lock it for this process; returns what ``os.close`` gives back.

    Where the system cannot lock (some network disks), nothing is, and nobody takes it for abandoned. Raises ``OSError``
    where it cannot be made.
    """
    for _ in range(TRIES):
        make(path)
        try:
            descriptor, _locked = _hold(path)
            return descriptor
        except (BlockingIOError, FileNotFoundError):
            time.sleep(0.01)
    raise OSError(f"{path} is being taken away again and again")


@contextmanager
def taken_over(path: Path) -> Iterator[bool]:
    """Whether whoever wrote to ``path`` has ended; if so it is ours inside the block."""
    try:
        descriptor, locked = _hold(path)
    except OSError:  # held by another, gone, or not ours to look at
        yield False
        return
    try:
        yield locked
    finally:
        os.close(descriptor)


def _hold(path: Path) -> tuple[int, bool]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        locked = _lock(descriptor)
        if os.fstat(descriptor).st_ino != path.stat().st_ino:  # cleared away and made anew in between
            raise FileNotFoundError(str(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, locked


def _lock(descriptor: int) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True
