"""Files and folders that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def unwritable(path: Path, error: Exception) -> OSError:
    """An ``OSError`` that names the path, whatever the writer made of a full disk."""
    reason = getattr(error, "strerror", None) or str(error)
    return OSError(getattr(error, "errno", None) or errno.EIO, f"{path} could not be written ({reason})")


def writing_errors() -> tuple[type[Exception], ...]:
    """What writers raise when a disk is full: the system's own errors, and safetensors', which wrap them."""
    from safetensors import SafetensorError

    return OSError, SafetensorError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """``with whole(path) as partial:`` write to ``partial``, which takes the place of ``path`` when it is complete.

    Whatever happens inside, a kill included, ``path`` is what it was or what it was to be. Raises ``OSError`` naming
    ``path`` where it cannot be written, a full disk for one.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb+") as file:  # on the disk before it is put in place, a power cut included
            os.fsync(file.fileno())
        os.replace(partial, path)
    except writing_errors() as error:
        raise unwritable(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


class OutputFolder:
    """``with OutputFolder(path, overwrite) as folder:`` write into ``folder``; it becomes ``path`` when all went well.

    Raises ``ValueError`` before any work when ``path`` is a file, or a folder that is not empty without ``overwrite``.
    An error or an interrupt inside the block leaves ``path`` as it was; one of writing becomes an ``OSError`` that
    names it.
    """

    def __init__(self, path: Path, overwrite: bool = False) -> None:
        self.path, self.overwrite = Path(path), overwrite
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"output {str(path)!r} is a file; a folder is needed")
        if self.path.is_dir() and any(self.path.iterdir()) and not overwrite:
            raise ValueError(f"output folder {str(path)!r} is not empty: choose another or give --overwrite")

    def __enter__(self) -> Path:
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        return self._partial

    def __exit__(self, kind: Any, error: Any, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
            if isinstance(error, writing_errors()):
                raise unwritable(self.path, error) from error
            return
        if self.path.exists():
            old = self.path.with_name(f".{self.path.name}.{os.getpid()}.old")
            os.replace(self.path, old)
            os.replace(self._partial, self.path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(self._partial, self.path)


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
