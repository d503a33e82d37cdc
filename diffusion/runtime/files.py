"""Files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from diffusion.runtime.locks import claim, taken_over

PARTIAL = ".partial"
_count = itertools.count()


def say(text: str) -> None:
    """One line on stderr: what was kept, where, and what is done again."""
    print(f"unlearn: {text}", file=sys.stderr, flush=True)


class UnwritableError(OSError):
    """Something could not be written, and the message names it."""


def unwritable(path: Path, error: Exception) -> UnwritableError:
    """An ``OSError`` that names the path, whatever the writer made of a full disk."""
    reason = getattr(error, "strerror", None) or str(error)
    return UnwritableError(getattr(error, "errno", None) or errno.EIO, f"{path} could not be written ({reason})")


def writing_errors() -> tuple[type[Exception], ...]:
    """What writers raise when a disk is full: the system's own errors, and safetensors', which wrap them."""
    try:
        from safetensors import SafetensorError
    except ImportError:  # the toys need none
        return (OSError,)
    return OSError, SafetensorError


def partial_name(path: Path) -> Path:
    """Where ``path`` is written until it is whole: beside it, hidden, and no other writer's."""
    return path.with_name(f".{path.name}.{os.getpid()}-{next(_count)}{PARTIAL}")


def partials_of(path: Path) -> list[Path]:
    """What writers of ``path`` have begun and not finished, whoever they are."""
    start = f".{path.name}."
    try:
        return sorted(p for p in path.parent.iterdir() if p.name.startswith(start) and p.name.endswith(PARTIAL))
    except OSError:
        return []


def clear_partials(folder: Path) -> list[Path]:
    """Remove the partial files in ``folder`` whose writers have ended; returns what was removed."""
    removed = []
    for path in sorted(folder.glob(f".*{PARTIAL}")):
        if path.is_file():
            with taken_over(path) as ours:
                if ours:
                    path.unlink(missing_ok=True)
                    removed.append(path)
    return removed


def check_file(path: Path, name: str = "output") -> None:
    """Raise ``ValueError`` or ``OSError``, before any work, where a file cannot be written at ``path``."""
    if not path.name or path.name == "..":
        raise ValueError(f"{name} must name a file, got {str(path)!r}")
    if path.exists() and not path.is_file():
        raise ValueError(f"{name} {str(path)!r} is no ordinary file")
    real = Path(os.path.realpath(path))
    made = missing_parents(real)
    with _claimed(real):  # what cannot be done later cannot be done now
        pass
    remove_empty(made)


def check_folder(path: Path, name: str) -> None:
    """Raise ``OSError`` naming it, before any work, where no file can be written into a folder, or none made."""
    made = missing_parents(path / "file")
    probe = path / f".{os.getpid()}-{next(_count)}{PARTIAL}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno or errno.EIO, f"{name} {str(path)!r} cannot be used ({reason})") from error
    finally:
        remove_empty(made)


@contextmanager
def _claimed(path: Path) -> Iterator[Path]:
    """An empty locked file that is to become ``path``; gone afterwards, wherever it was not moved."""
    partial, lock = partial_name(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = claim(partial, Path.touch)
        yield partial
    except UnwritableError:
        raise
    except writing_errors() as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):  # not even its folder may be there; the error that led here is the one to be heard
            partial.unlink()
        if lock is not None:
            os.close(lock)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """``with atomic_write(path) as partial:`` write to ``partial``, which takes the place of ``path`` when it is
    complete.

    Whatever happens inside, a kill included, ``path`` is what it was or what it was to be; a symbolic link stays, and
    the file that it points to is written. Raises ``OSError`` naming ``path`` where it cannot be written, a full disk
    for one, or is no ordinary file.
    """
    real = Path(os.path.realpath(path))
    if real.exists() and not real.is_file():
        raise UnwritableError(errno.EINVAL, f"{path} could not be written (it is no ordinary file)")
    with _claimed(real) as partial:
        yield partial
        to_disk(partial)
        os.replace(partial, real)


def write_text(path: Path, text: str) -> None:
    """Text into a file that is whole or what it was before."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def to_disk(path: Path) -> None:
    """What was written is on the disk before it is put in place, a power cut included."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def missing_parents(path: Path) -> list[Path]:
    """The folders above ``path`` that are not there, the deepest first."""
    return [parent for parent in path.parents if not parent.exists()]


def remove_empty(folders: list[Path]) -> None:
    """Take back folders that were made for something that did not come to be."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def to_json(data: Any) -> str:
    """Strict JSON; infinities and NaN as strings."""
    return json.dumps(_plain(data), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
